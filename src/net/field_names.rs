//! The names of fields that Azure's answers have, made once: each that http does not know itself would be an allocation
//! and a look at each of its letters for every answer.

use http::HeaderName;
use http::header::InvalidHeaderName;

macro_rules! known {
    ($($name:literal),* $(,)?) => {
        /// The name that these bytes are.
        pub(super) fn field_name(bytes: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
            Ok(match bytes {
                $($name => {
                    const NAME: HeaderName = HeaderName::from_static(text($name));
                    NAME
                })*
                _ => return HeaderName::from_bytes(bytes),
            })
        }

        #[cfg(test)]
        const KNOWN: &[&[u8]] = &[$($name),*];
    };
}

const fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("names are ASCII"),
    }
}

// azure-openai.md 3.1, as they are spelt there.
known!(
    b"apim-request-id",
    b"azure-openai-deployment-utilization",
    b"azureml-model-session",
    b"ms-azureml-model-time",
    b"policy-id",
    b"retry-after-ms",
    b"x-accel-buffering",
    b"x-ms-client-request-id",
    b"x-ms-deployment-name",
    b"x-ms-region",
    b"x-ratelimit-limit-requests",
    b"x-ratelimit-limit-tokens",
    b"x-ratelimit-remaining-requests",
    b"x-ratelimit-remaining-tokens",
    b"x-ratelimit-reset-requests",
    b"x-ratelimit-reset-tokens",
    b"x-request-id",
);

#[cfg(test)]
mod tests {
    use super::{KNOWN, field_name};
    use http::HeaderName;

    #[test]
    fn a_known_name_is_the_one_that_would_be_read_and_so_is_every_other() {
        for name in KNOWN.iter().copied().chain([&b"X-Request-Id"[..], b"content-type", b"x-new"]) {
            assert_eq!(field_name(name).unwrap(), HeaderName::from_bytes(name).unwrap());
        }
        assert!(field_name(b"a b").is_err());
    }
}
