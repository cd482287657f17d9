//! Reads a parsed document piece by piece. Each piece knows its place and where to report, so a
//! reader returns `None` for a bad value and goes on with the next.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::fault::Faults;
use super::keys::Keys;

/// Longest text that a message repeats, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// A value, what it is called and where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    /// Its key, or the key of the list that it is in.
    pub(super) name: &'a str,
    /// Offset of its first byte.
    pub(super) at: usize,
    value: &'a DeValue<'a>,
    faults: &'a Faults<'a>,
}

/// A table whose keys are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section<'a> {
    /// Offset of its name, or of its header or brace if it has none.
    pub(super) at: usize,
    table: &'a DeTable<'a>,
    faults: &'a Faults<'a>,
}

impl<'a> Item<'a> {
    /// Reports a fault at this value.
    pub(super) fn fault<T>(
        &self,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        self.faults.report(self.at, message, Some(hint.into()));
        None
    }

    /// Reports that the value is of another kind than expected.
    pub(super) fn not_a<T>(&self, expected: &str, hint: impl Into<String>) -> Option<T> {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a decimal number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fault(
            format!("`{}`: found {found}, expected {expected}", self.name),
            hint,
        )
    }

    /// Reports a value outside of its bounds.
    pub(super) fn outside<T>(
        &self,
        value: &str,
        bound: impl std::fmt::Display,
        why: &str,
    ) -> Option<T> {
        self.fault(format!("`{}` is {value}, must be {bound}", self.name), why)
    }

    /// The line of another place.
    pub(super) fn line_of(&self, at: usize) -> usize {
        self.faults.line(at)
    }

    /// The digits of an integer and their radix, if it is one.
    pub(super) fn integer(&self) -> Option<(&'a str, u32)> {
        let integer = self.value.as_integer()?;
        Some((integer.as_str(), integer.radix()))
    }

    /// The digits of a decimal number, if it is one.
    pub(super) fn number(&self) -> Option<&'a str> {
        match self.value {
            DeValue::Float(float) => Some(float.as_str()),
            DeValue::Integer(integer) if integer.radix() == 10 => Some(integer.as_str()),
            _ => None,
        }
    }

    /// The text of a string, if it is one; reports nothing.
    pub(super) fn string(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// A string, which may be empty. Zero bytes are refused: no program, header or path has one.
    pub(super) fn text(&self) -> Option<&'a str> {
        let Some(text) = self.string() else {
            let hint = self.number().map_or_else(
                || "write it in quotes".to_owned(),
                |number| format!("write \"{number}\""),
            );
            return self.not_a("a string", hint);
        };
        if text.contains('\0') {
            return self.fault(
                format!("`{}` contains a zero byte", self.name),
                "remove `\\u0000`",
            );
        }
        Some(text)
    }

    /// A string that is not empty.
    pub(super) fn filled(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.is_empty() {
            return self.fault(
                format!("`{}` is empty", self.name),
                "write a value, or leave the key out",
            );
        }
        Some(text)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        self.value
            .as_bool()
            .or_else(|| self.not_a("true or false", "write true or false, without quotes"))
    }

    /// The items of a list; a string stands for a list of itself.
    pub(super) fn items_or_one(&self, count_max: usize) -> Option<Vec<Self>> {
        if self.string().is_some() {
            return Some(vec![*self]);
        }
        self.items(count_max)
    }

    /// The items of a list.
    pub(super) fn items(&self, count_max: usize) -> Option<Vec<Self>> {
        let Some(list) = self.value.as_array() else {
            return self.not_a("a list", "write it in brackets: [\"…\", \"…\"]");
        };
        self.check_length(list, count_max)?;
        let item = |value: &'a Spanned<DeValue<'a>>| Self {
            value: value.get_ref(),
            at: value.span().start,
            ..*self
        };
        Some(list.iter().map(item).collect())
    }

    fn check_length(&self, list: &DeArray<'_>, count_max: usize) -> Option<()> {
        if list.len() > count_max {
            return self.fault(
                format!(
                    "`{}` has {} items, at most {count_max}",
                    self.name,
                    list.len()
                ),
                "merge or remove some",
            );
        }
        Some(())
    }

    /// The entries of a table whose keys are free, in the order of the text; each is placed at
    /// its key.
    pub(super) fn entries(&self, hint: &str) -> Option<Vec<(usize, Self)>> {
        let Some(table) = self.value.as_table() else {
            return self.not_a("a table", hint);
        };
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| {
                let item = Self {
                    name: key.get_ref(),
                    value: value.get_ref(),
                    at: value.span().start,
                    faults: self.faults,
                };
                (key.span().start, item)
            })
            .collect();
        entries.sort_by_key(|(at, _)| *at);
        Some(entries)
    }

    /// A table with known keys; any other key is a fault.
    pub(super) fn section(&self, keys: &Keys) -> Option<Section<'a>> {
        let Some(table) = self.value.as_table() else {
            return self.not_a("a table", format!("known here: {}", keys.listed()));
        };
        Some(Section::open(table, self.at, keys, self.faults))
    }

    /// Whether it is a table.
    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// The same value, reported at another place.
    pub(super) fn placed(self, at: usize) -> Self {
        Self { at, ..self }
    }
}

impl<'a> Section<'a> {
    /// A table; its unknown keys are reported now.
    pub(super) fn open(
        table: &'a DeTable<'a>,
        at: usize,
        keys: &Keys,
        faults: &'a Faults<'a>,
    ) -> Self {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if !keys.has(name) {
                let message = format!("unknown key {}", quoted(name));
                faults.report(key.span().start, message, Some(keys.hint(name)));
            }
        }
        Self { at, table, faults }
    }

    /// The value of a key, if it is there.
    pub(super) fn item(&self, key: &str) -> Option<Item<'a>> {
        let (name, value) = self.table.get_key_value(key)?;
        Some(Item {
            name: name.get_ref(),
            at: value.span().start,
            value: value.get_ref(),
            faults: self.faults,
        })
    }

    /// Offset of the name of a key, if it is there.
    pub(super) fn key_at(&self, key: &str) -> Option<usize> {
        let (name, _) = self.table.get_key_value(key)?;
        Some(name.span().start)
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &str, hint: &str) -> Option<Item<'a>> {
        let item = self.item(key);
        if item.is_none() {
            self.fault(format!("missing `{key}`"), hint);
        }
        item
    }

    /// What a key says, or else the default. The default also stands in for a bad value, so that
    /// reading goes on; the fault is reported.
    pub(super) fn read<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(Item<'a>) -> Option<T>,
    ) -> T {
        match self.item(key) {
            Some(item) => read(item).unwrap_or(default),
            None => default,
        }
    }

    /// What a key says, the default if it is not there, `None` if it is bad. For rules about
    /// several keys, which say nothing about a bad one.
    pub(super) fn read_sound<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(Item<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.item(key) {
            Some(item) => read(item),
            None => Some(default),
        }
    }

    /// What a key says, if it is there and good.
    pub(super) fn read_option<T>(
        &self,
        key: &str,
        read: impl FnOnce(Item<'a>) -> Option<T>,
    ) -> Option<T> {
        self.item(key).and_then(read)
    }

    /// Reports a fault of the table as a whole.
    pub(super) fn fault(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.faults.report(self.at, message, Some(hint.into()));
    }
}

/// A text for a message: quoted, escaped and not too long.
pub(super) fn quoted(text: &str) -> String {
    if text.chars().nth(QUOTED_CHARS_MAX).is_none() {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    format!("{:?}", start + "…")
}
