//! When a certificate is valid: read from its DER, just as far as that (RFC 5280, 4.1).

use segue_core::time::Timestamp;

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Days before 1970-01-01 since the beginning of the count, 0000-03-01.
const DAYS_TO_1970: u64 = 719_468;

/// From when and until when it is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

/// Reads it. `None`: this is no certificate.
pub(super) fn validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate, _) = element(der, Some(SEQUENCE))?;
    let (_, mut rest, _) = element(certificate, Some(SEQUENCE))?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest, Some(VERSION))?.2;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest, None)?.2;
    }
    let (_, times, _) = element(rest, Some(SEQUENCE))?;
    let (from_tag, from, times) = element(times, None)?;
    let (until_tag, until, _) = element(times, None)?;
    Some(Validity {
        from: moment(from_tag, from)?,
        until: moment(until_tag, until)?,
    })
}

/// Tag, content, and what follows.
fn element(der: &[u8], wanted: Option<u8>) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    if wanted.is_some_and(|wanted| wanted != tag) {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // One to four bytes of length: a certificate is not larger.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, always UTC and with seconds.
fn moment(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let digits = text.strip_suffix(b"Z")?;
    let number = |at: usize, length: usize| -> Option<u64> {
        let digits = digits.get(at..at + length)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    let (year, rest) = match tag {
        UTC_TIME => {
            let year = number(0, 2)?;
            // RFC 5280: 50 to 99 are of the last century.
            (
                if year < 50 {
                    2_000 + year
                } else {
                    1_900 + year
                },
                2,
            )
        }
        GENERALIZED_TIME => (number(0, 4)?, 4),
        _ => return None,
    };
    let field = |index: usize| number(rest + 2 * index, 2);
    let (month, day) = (field(0)?, field(1)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = field(2)? * 3_600 + field(3)? * 60 + field(4)?;
    Some(Timestamp(
        (days(year, month, day) * 86_400 + seconds) * 1_000,
    ))
}

/// Days since 1970-01-01 (Howard Hinnant's `days_from_civil`); zero before.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // From March on, so that a leap day is the last of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year.saturating_sub(1), month + 9)
    };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year)
        .saturating_sub(DAYS_TO_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_both_kinds_are_read() {
        let check = |tag, text: &str, expected: &str| {
            let moment = moment(tag, text.as_bytes()).unwrap();
            assert_eq!(crate::output::utc(moment), expected);
        };
        check(UTC_TIME, "260131090500Z", "2026-01-31T09:05:00.000Z");
        check(UTC_TIME, "000229000000Z", "2000-02-29T00:00:00.000Z");
        check(
            GENERALIZED_TIME,
            "21000301235959Z",
            "2100-03-01T23:59:59.000Z",
        );
        assert_eq!(moment(UTC_TIME, b"261331090500Z"), None);
        assert_eq!(moment(UTC_TIME, b"2601310905Z"), None);
    }

    #[test]
    fn a_certificate_says_how_long_it_is_valid() {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2024, 2, 29);
        parameters.not_after = rcgen::date_time_ymd(2051, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let validity = validity(certificate.der()).unwrap();
        assert!(crate::output::utc(validity.from).starts_with("2024-02-29"));
        assert!(crate::output::utc(validity.until).starts_with("2051-12-31"));
        for end in 0..60 {
            assert_eq!(
                super::validity(&certificate.der()[..end]),
                None,
                "cut short"
            );
        }
    }
}
