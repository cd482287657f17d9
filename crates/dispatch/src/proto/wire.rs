//! The protobuf wire format: fields, and how values lie in them.

use std::collections::BTreeMap;

use super::MESSAGE_BYTES_MAX;

/// Longest varint, in bytes.
const VARINT_BYTES_MAX: usize = 10;

/// Largest field number there is.
const NUMBER_MAX: u64 = (1 << 29) - 1;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// It ends within a field.
    #[error("the message ends within a field")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("a number is longer than 64 bits")]
    LongNumber,
    /// A field numbered 0, or above what the format has.
    #[error("a field has a number that does not exist")]
    FieldNumber,
    /// Groups, which no version of this protocol has, or a type that nobody has.
    #[error("field {0} has a type that is not of this protocol")]
    FieldType(u32),
    /// A known field holds another kind of value.
    #[error("field {0} holds another type than it should")]
    WrongType(u32),
    /// A text that is no UTF-8.
    #[error("field {0} is not UTF-8")]
    Text(u32),
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("the message is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
}

/// A message whose unknown fields survive.
pub trait Message: Sized + Default {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// [`Malformed`] for whatever a strict reader would refuse.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed>;

    /// Writes it behind `out`.
    fn put(&self, out: &mut Vec<u8>);

    /// Its bytes.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) content: Content<'a>,
    /// The whole of it, key included.
    pub(super) raw: &'a [u8],
}

impl<'a> Field<'a> {
    /// What lies in it, if it is of the length-delimited type.
    pub(super) fn bytes(&self) -> Result<&'a [u8], Malformed> {
        match self.content {
            Content::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed::WrongType(self.number)),
        }
    }

    fn varint(&self) -> Result<u64, Malformed> {
        match self.content {
            Content::Varint(value) => Ok(value),
            _ => Err(Malformed::WrongType(self.number)),
        }
    }

    pub(super) fn text(&self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Text(self.number))
    }
}

/// The fields of a message, in their order; nothing behind the first fault.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn read(&mut self) -> Result<Field<'a>, Malformed> {
        let whole = self.0;
        let (key, rest) = varint(whole)?;
        let number = key >> 3;
        if number == 0 || number > NUMBER_MAX {
            return Err(Malformed::FieldNumber);
        }
        let number = u32::try_from(number).map_err(|_| Malformed::FieldNumber)?;
        let (content, rest) = match key & 7 {
            0 => {
                let (value, rest) = varint(rest)?;
                (Content::Varint(value), rest)
            }
            1 => (Content::Fixed64, rest.get(8..).ok_or(Malformed::Truncated)?),
            2 => {
                let (length, rest) = varint(rest)?;
                let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
                let (value, rest) = rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
                (Content::Bytes(value), rest)
            }
            5 => {
                let (value, rest) = rest.split_first_chunk().ok_or(Malformed::Truncated)?;
                (Content::Fixed32(u32::from_le_bytes(*value)), rest)
            }
            _ => return Err(Malformed::FieldType(number)),
        };
        self.0 = rest;
        Ok(Field {
            number,
            content,
            raw: &whole[..whole.len() - rest.len()],
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.0 = &[];
        }
        Some(read)
    }
}

fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if index == VARINT_BYTES_MAX - 1 && *byte > 1 {
            return Err(Malformed::LongNumber);
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[index + 1..]));
        }
    }
    if bytes.len() < VARINT_BYTES_MAX {
        Err(Malformed::Truncated)
    } else {
        Err(Malformed::LongNumber)
    }
}

pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn put_key(number: u32, kind: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | kind, out);
}

/// Writes a length-delimited field, also an empty one.
pub(super) fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A value of a field: read in turn, so that the last of several counts; not written when it is
/// what an absent field means.
pub(super) trait Value {
    fn merge(&mut self, field: &Field<'_>) -> Result<(), Malformed>;
    fn put(&self, number: u32, out: &mut Vec<u8>);
}

/// As proto3 has it: an absent field is its default.
trait Plain: Default + PartialEq {
    fn read(field: &Field<'_>) -> Result<Self, Malformed>;
    fn write(&self, number: u32, out: &mut Vec<u8>);
}

impl<T: Plain> Value for T {
    fn merge(&mut self, field: &Field<'_>) -> Result<(), Malformed> {
        *self = T::read(field)?;
        Ok(())
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if *self != T::default() {
            self.write(number, out);
        }
    }
}

impl<T: Plain> Value for Option<T> {
    fn merge(&mut self, field: &Field<'_>) -> Result<(), Malformed> {
        *self = Some(T::read(field)?);
        Ok(())
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.write(number, out);
        }
    }
}

impl Plain for u32 {
    /// As protobuf has it, what does not fit is cut off.
    #[expect(clippy::cast_possible_truncation, reason = "that is the format's rule")]
    fn read(field: &Field<'_>) -> Result<Self, Malformed> {
        Ok(field.varint()? as u32)
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        put_key(number, 0, out);
        put_varint(u64::from(*self), out);
    }
}

impl Plain for i64 {
    fn read(field: &Field<'_>) -> Result<Self, Malformed> {
        Ok(field.varint()?.cast_signed())
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        put_key(number, 0, out);
        put_varint(self.cast_unsigned(), out);
    }
}

impl Plain for bool {
    fn read(field: &Field<'_>) -> Result<Self, Malformed> {
        Ok(field.varint()? != 0)
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        u32::from(*self).write(number, out);
    }
}

impl Plain for f32 {
    fn read(field: &Field<'_>) -> Result<Self, Malformed> {
        match field.content {
            Content::Fixed32(bits) => Ok(Self::from_bits(bits)),
            _ => Err(Malformed::WrongType(field.number)),
        }
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        put_key(number, 5, out);
        out.extend_from_slice(&self.to_le_bytes());
    }
}

impl Plain for String {
    fn read(field: &Field<'_>) -> Result<Self, Malformed> {
        Ok(field.text()?.to_owned())
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        put_bytes(number, self.as_bytes(), out);
    }
}

/// Bytes, or a message that is only passed on.
impl Plain for Vec<u8> {
    fn read(field: &Field<'_>) -> Result<Self, Malformed> {
        Ok(field.bytes()?.to_owned())
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        put_bytes(number, self, out);
    }
}

impl Value for Vec<String> {
    fn merge(&mut self, field: &Field<'_>) -> Result<(), Malformed> {
        self.push(String::read(field)?);
        Ok(())
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for value in self {
            value.write(number, out);
        }
    }
}

/// Messages, one after the other.
impl Value for Vec<Vec<u8>> {
    fn merge(&mut self, field: &Field<'_>) -> Result<(), Malformed> {
        self.push(Vec::read(field)?);
        Ok(())
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for value in self {
            value.write(number, out);
        }
    }
}

impl Value for BTreeMap<String, String> {
    fn merge(&mut self, field: &Field<'_>) -> Result<(), Malformed> {
        let (mut key, mut value) = (String::new(), String::new());
        for entry in Fields::of(field.bytes()?) {
            let entry = entry?;
            match entry.number {
                1 => key = String::read(&entry)?,
                2 => value = String::read(&entry)?,
                _ => {}
            }
        }
        self.insert(key, value);
        Ok(())
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for (key, value) in self {
            let mut entry = Vec::new();
            key.write(1, &mut entry);
            value.write(2, &mut entry);
            put_bytes(number, &entry, out);
        }
    }
}

/// Declares a message: its fields by number, and what is not known of it.
macro_rules! message {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $number:literal $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
            /// Fields that are not known here, as they came.
            pub unknown: Vec<u8>,
        }

        impl $crate::proto::Message for $name {
            fn decode(bytes: &[u8]) -> Result<Self, $crate::proto::Malformed> {
                let mut message = Self::default();
                for field in $crate::proto::wire::Fields::of(bytes) {
                    let field = field?;
                    match field.number {
                        $($number => $crate::proto::wire::Value::merge(&mut message.$field, &field)?,)*
                        _ => message.unknown.extend_from_slice(field.raw),
                    }
                }
                Ok(message)
            }

            fn put(&self, out: &mut Vec<u8>) {
                $($crate::proto::wire::Value::put(&self.$field, $number, out);)*
                out.extend_from_slice(&self.unknown);
            }
        }
    };
}

/// Declares an enumeration; values that are not known survive too.
macro_rules! enumeration {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $number:literal $value:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)*
            /// A value of a later version.
            Other(u32),
        }

        impl Default for $name {
            fn default() -> Self {
                Self::from(0)
            }
        }

        impl From<u32> for $name {
            fn from(number: u32) -> Self {
                match number {
                    $($number => Self::$value,)*
                    other => Self::Other(other),
                }
            }
        }

        impl From<$name> for u32 {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$value => $number,)*
                    $name::Other(other) => other,
                }
            }
        }

        impl $crate::proto::wire::Number for $name {}
    };
}

/// An enumeration lies in its field as a number does.
pub(super) trait Number: From<u32> + Into<u32> + Copy + Default + PartialEq {}

impl<T: Number> Plain for T {
    fn read(field: &Field<'_>) -> Result<Self, Malformed> {
        u32::read(field).map(T::from)
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        let value: u32 = (*self).into();
        value.write(number, out);
    }
}

pub(super) use {enumeration, message};
