//! `traceparent` and `tracestate`, as W3C's Trace Context has them. PURE.

use http::{HeaderMap, HeaderName};

use super::{SpanId, TraceId};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What the recommendation wants to be passed on at least; more is dropped whole.
const LONGEST_STATE: usize = 512;

/// The caller's span.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

/// The caller's span, if its headers name one; what is malformed counts as none.
pub(super) fn parent(headers: &HeaderMap) -> Option<Parent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (value, None) = (values.next()?.to_str().ok()?.trim(), values.next()) else { return None };
    let mut parts = value.split('-');
    let [version, trace, span, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let lengths = (version.len(), trace.len(), span.len(), flags.len());
    // Later versions may have further parts.
    if lengths != (2, 32, 16, 2) || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    number(version)?;
    number(flags)?;
    let (trace, span) = (number(trace)?, u64::try_from(number(span)?).ok()?);
    let known = trace != 0 && span != 0;
    known.then(|| Parent { trace: TraceId(trace.to_be_bytes()), span: span.to_be_bytes() })
}

/// Lower case only: so says the recommendation.
fn number(digits: &str) -> Option<u128> {
    let lower = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    lower.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

/// What tracing systems pass each other on the way; nothing where it is malformed or long.
pub(super) fn state(headers: &HeaderMap) -> String {
    let values = headers.get_all(TRACESTATE).into_iter().filter_map(|value| value.to_str().ok());
    let mut all = String::new();
    for value in values.map(str::trim).filter(|value| !value.is_empty()) {
        if all.len() + value.len() >= LONGEST_STATE || !value.split(',').all(is_member) {
            return String::new();
        }
        if !all.is_empty() {
            all.push(',');
        }
        all.push_str(value);
    }
    all
}

/// `key=value`, in the recommendation's alphabets; empty ones are allowed.
fn is_member(member: &str) -> bool {
    let member = member.trim();
    let Some((key, value)) = member.split_once('=') else { return member.is_empty() };
    let in_key = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    !key.is_empty()
        && key.bytes().all(in_key)
        && !value.is_empty()
        && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(parents: &[&'static str], states: &[&str]) -> Option<(Parent, String)> {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_static(parent));
        }
        for state in states {
            headers.append(TRACESTATE, HeaderValue::from_str(state).unwrap());
        }
        Some((parent(&headers)?, state(&headers)))
    }

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_callers_span_is_taken_with_its_state() {
        let (parent, state) = of(&[GOOD], &["rojo=00f067aa0ba902b7", "congo=t61"]).unwrap();
        assert_eq!(parent.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.span, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
        assert_eq!(state, "rojo=00f067aa0ba902b7,congo=t61");
        let long = format!("a={}", "x".repeat(600));
        for bad in [&*long, "words of a prompt", "A=b", "a=", "=b", "a=b=c"] {
            assert_eq!(of(&[GOOD], &["a=b", bad]).unwrap().1, "", "{bad}");
        }
        // A later version, with more than we know.
        assert!(of(&["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what"], &[]).is_some());
    }

    #[test]
    fn what_is_malformed_or_told_twice_counts_as_none() {
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
        ] {
            assert_eq!(of(&[bad], &["a=b"]), None, "{bad}");
        }
        assert_eq!(of(&[GOOD, GOOD], &[]), None);
        assert_eq!(of(&[], &["a=b"]), None);
    }
}
