//! The little of a certificate that people ask about: whose it is, who issued it, from when to when it is good.
//!
//! Read by hand: the TLS library checks all of this but tells none of it, and a parser of all of X.509 is several
//! crates for four fields. Nothing here decides whom to trust.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What people ask about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFacts {
    /// Its common name, else organisation; with a `?` for every unusual character, and cut.
    pub subject: String,
    /// The same of who issued it.
    pub issuer: String,
    /// Good from then, in seconds since 1970.
    pub not_before: u64,
    /// Good until then, in seconds since 1970.
    pub not_after: u64,
}

impl CertificateFacts {
    /// From one certificate's DER; `None` when it does not look like one.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).expect(SEQUENCE)?);
        let mut body = Der(certificate.expect(SEQUENCE)?);
        if body.0.first() == Some(&VERSION) {
            body.next()?;
        }
        body.expect(INTEGER)?;
        body.expect(SEQUENCE)?;
        let issuer = name(body.expect(SEQUENCE)?);
        let mut validity = Der(body.expect(SEQUENCE)?);
        let (from, until) = (validity.next()?, validity.next()?);
        let subject = name(body.expect(SEQUENCE)?);
        Some(Self { subject, issuer, not_before: seconds(from)?, not_after: seconds(until)? })
    }

    /// Time left until it ends; zero once it has.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Duration {
        self.ends().duration_since(now).unwrap_or_default()
    }

    /// When it ends.
    #[must_use]
    pub fn ends(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_after)
    }
}

impl fmt::Display for CertificateFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = humantime::format_rfc3339_seconds(self.ends());
        write!(f, "of {}, issued by {}, good until {until}", self.subject, self.issuer)
    }
}

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, explicit.
const VERSION: u8 = 0xa0;

/// `2.5.4.3` and `2.5.4.10`.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];

/// Elements one after the other: tag, length, content (X.690).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

/// Of a distinguished name, what people call it by.
fn name(content: &[u8]) -> String {
    let (mut sets, mut organisation) = (Der(content), None);
    while let Some(set) = sets.expect(SET) {
        let Some(mut pair) = Der(set).expect(SEQUENCE).map(Der) else { continue };
        let (Some(kind), Some((_, text))) = (pair.expect(OBJECT_IDENTIFIER), pair.next()) else { continue };
        if kind == COMMON_NAME {
            return plain(text);
        }
        if kind == ORGANISATION {
            organisation = Some(plain(text));
        }
    }
    organisation.unwrap_or_else(|| "no name".to_owned())
}

/// It comes from outside and goes to a terminal.
fn plain(text: &[u8]) -> String {
    const LONGEST: usize = 64;
    let usual = |c: char| c.is_alphanumeric() || c == ' ' || c.is_ascii_punctuation();
    String::from_utf8_lossy(text).chars().take(LONGEST).map(|c| if usual(c) { c } else { '?' }).collect()
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, as RFC 5280, 4.1.2.5 writes them.
fn seconds((tag, text): (u8, &[u8])) -> Option<u64> {
    let text = text.strip_suffix(b"Z")?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let [month, day, hour, minute, second] =
        <[u64; 5]>::try_from(rest.chunks(2).map(number).collect::<Option<Vec<_>>>()?).ok()?;
    let sane =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !sane || rest.len() != 10 {
        return None;
    }
    // Days from the civil calendar, counted in years that begin in March.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (months * 153 + 2) / 5 + day - 1;
    // Of 1970; what began before is simply old.
    let days = days.saturating_sub(719_468);
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made() -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Contoso");
        params.distinguished_name.push(rcgen::DnType::CommonName, "gate\u{1b}[31m.example");
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        params.not_after = rcgen::date_time_ymd(2051, 2, 28);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_tells_whose_it_is_and_until_when_it_is_good() {
        let facts = CertificateFacts::read(&made()).unwrap();
        assert_eq!(facts.subject, "gate?[31m.example");
        assert_eq!(facts.issuer, facts.subject);
        // By `date -d`, once in UTCTime, once in GeneralizedTime.
        assert_eq!((facts.not_before, facts.not_after), (946_598_400, 2_561_155_200));
        assert_eq!(
            facts.to_string(),
            "of gate?[31m.example, issued by gate?[31m.example, good until 2051-02-28T00:00:00Z"
        );
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (text, expected) in [
            (&b"700101000000Z"[..], 0),
            (b"000229120000Z", 951_825_600),
            (b"491231235959Z", 2_524_607_999),
            (b"500101000000Z", 0),
        ] {
            let told = seconds((UTC_TIME, text)).unwrap();
            assert_eq!(told, expected, "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(seconds((GENERALIZED_TIME, b"99991231235959Z")), Some(253_402_300_799));
        for wrong in
            [&b"701301000000Z"[..], b"7001010000Z", b"70010100000aZ", b"700101000000", b"7001010000000Z"]
        {
            assert_eq!(seconds((UTC_TIME, wrong)), None, "{}", String::from_utf8_lossy(wrong));
        }
    }

    proptest! {
        #[test]
        fn nothing_from_outside_makes_it_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0_usize..400,
            byte in any::<u8>(),
            cut in 0_usize..400,
        ) {
            let told = CertificateFacts::read(&noise).map(|facts| facts.to_string());
            drop(told);
            let mut der = made();
            if let Some(place) = der.get_mut(at) {
                *place = byte;
            }
            der.truncate(cut.max(at));
            let told = CertificateFacts::read(&der).map(|facts| facts.to_string());
            drop(told);
        }
    }
}
