//! What a token of Entra ID says, and whether it admits. PURE.

use std::sync::Arc;

use serde::Deserialize;

use super::{Allow, Doubt, EntraSettings};

/// Clocks may differ by so much, in seconds.
const LEEWAY: u64 = 60;

/// The claims that matter; each of them at most once, or the token is not read.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    iss: Box<str>,
    /// One text: Entra ID names one audience.
    aud: Box<str>,
    pub(super) exp: u64,
    nbf: Option<u64>,
    tid: Box<str>,
    /// The application that asked for the token, in tokens of version 1 …
    appid: Option<Box<str>>,
    /// … and of version 2.
    azp: Option<Box<str>>,
    /// The user or service principal.
    oid: Option<Box<str>>,
}

/// What the claims are held against.
#[derive(Debug)]
pub(super) struct Rules {
    tenant: Box<str>,
    audiences: Vec<Box<str>>,
    allow: Option<Vec<Arc<str>>>,
    /// Of version 1, then those of version 2.
    issuers: [Box<str>; 2],
}

impl Rules {
    pub(super) fn new(settings: &EntraSettings) -> Self {
        let EntraSettings { tenant, audiences, allow, authority } = settings;
        let tenant = tenant.to_ascii_lowercase();
        // China's own cloud signs in its own name; the others share one.
        let first = if authority.ends_with(".cn") { "sts.chinacloudapi.cn" } else { "sts.windows.net" };
        let issuers = [format!("https://{first}/{tenant}/"), format!("{authority}/{tenant}/v2.0")];
        Self {
            issuers: issuers.map(Box::from),
            tenant: tenant.into(),
            audiences: audiences.iter().map(|audience| bare(audience).into()).collect(),
            allow: match allow {
                Allow::Any => None,
                Allow::Ids(ids) => Some(ids.iter().map(|id| id.to_ascii_lowercase().into()).collect()),
            },
        }
    }

    /// As whom a token with these claims admits. `issuer` is what the tenant's own documents say it is, of version 2.
    pub(super) fn hold(&self, claims: &Claims, issuer: &str, now: u64) -> Result<Arc<str>, Doubt> {
        let [first, second] = &self.issuers;
        let is = |issuer: &str| issuer.eq_ignore_ascii_case(&claims.iss);
        let application = if is(first) {
            &claims.appid
        } else if is(second) || is(issuer) {
            &claims.azp
        } else {
            return Err(Doubt::Issuer);
        };
        if !self.tenant.eq_ignore_ascii_case(&claims.tid) {
            return Err(Doubt::Tenant);
        }
        if !self.audiences.iter().any(|audience| audience.eq_ignore_ascii_case(bare(&claims.aud))) {
            return Err(Doubt::Audience);
        }
        if claims.exp.saturating_add(LEEWAY) <= now {
            return Err(Doubt::Expired);
        }
        if claims.nbf.is_some_and(|from| from > now.saturating_add(LEEWAY)) {
            return Err(Doubt::NotYet);
        }
        // Only tokens that are made for calling an API name an application; those that tell a page who signed in do not.
        let application = application.as_deref().filter(|id| is_id(id)).ok_or(Doubt::NoApplication)?;
        let Some(allowed) = &self.allow else { return Ok(application.to_ascii_lowercase().into()) };
        let find = |id: &str| allowed.iter().find(|allowed| allowed.eq_ignore_ascii_case(id)).map(Arc::clone);
        find(application).or_else(|| find(claims.oid.as_deref()?)).ok_or(Doubt::NotAllowed)
    }

    /// Whether a key that says it signs for this issuer signs for our tenant: keys of several may stand in one
    /// document, and a key of another, personal accounts for one, must not vouch for ours.
    pub(super) fn signs_for_us(&self, issuer: Option<&str>) -> bool {
        let mut ids = issuer.unwrap_or_default().split('/').filter(|segment| is_id(segment));
        ids.all(|id| id.eq_ignore_ascii_case(&self.tenant))
    }
}

/// One slash at the end makes no difference.
fn bare(audience: &str) -> &str {
    audience.strip_suffix('/').unwrap_or(audience)
}

/// Whether a text has the form of an id of Entra ID: 8-4-4-4-12 hexadecimal digits.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let groups = [8, 4, 4, 4, 12];
    text.split('-').count() == groups.len()
        && text
            .split('-')
            .zip(groups)
            .all(|(group, length)| group.len() == length && group.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TENANT: &str = "00000000-aaaa-bbbb-cccc-000000000001";
    const APP: &str = "00000000-aaaa-bbbb-cccc-00000000000a";
    const PERSON: &str = "00000000-aaaa-bbbb-cccc-00000000000b";

    fn rules(authority: &str, allow: Allow) -> Rules {
        let audiences = vec!["https://cognitiveservices.azure.com".to_owned(), APP.to_owned()];
        Rules::new(&EntraSettings {
            tenant: TENANT.to_ascii_uppercase(),
            audiences,
            allow,
            authority: authority.to_owned(),
        })
    }

    fn hold(rules: &Rules, change: serde_json::Value) -> Result<String, Doubt> {
        let mut claims = json!({
            "iss": format!("https://sts.windows.net/{TENANT}/"), "aud": "https://cognitiveservices.azure.com/",
            "exp": 2_000, "nbf": 1_000, "tid": TENANT, "appid": APP, "oid": PERSON,
        });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let claims: Claims = serde_json::from_value(claims).unwrap();
        let issuer = format!("https://login.partner.example/{TENANT}/v2.0");
        rules.hold(&claims, &issuer, 1_500).map(|name| name.to_string())
    }

    fn ids(ids: &[&str]) -> Allow {
        Allow::Ids(ids.iter().map(|id| (*id).to_owned()).collect())
    }

    #[test]
    fn the_name_is_what_was_allowed_be_it_application_or_object() {
        let cloud = "https://login.microsoftonline.com";
        assert_eq!(hold(&rules(cloud, ids(&[APP])), json!({})), Ok(APP.to_owned()));
        assert_eq!(hold(&rules(cloud, ids(&[PERSON])), json!({})), Ok(PERSON.to_owned()));
        assert_eq!(
            hold(&rules(cloud, Allow::Any), json!({"appid": APP.to_ascii_uppercase()})),
            Ok(APP.to_owned())
        );
        assert_eq!(hold(&rules(cloud, ids(&[TENANT])), json!({})), Err(Doubt::NotAllowed));
    }

    #[test]
    fn issuers_of_both_versions_and_of_other_clouds_are_known_and_no_others() {
        let cloud = "https://login.microsoftonline.us";
        let issued = |cloud: &str, issuer: &str| {
            hold(&rules(cloud, Allow::Any), json!({ "iss": issuer, "azp": APP })).err()
        };
        assert_eq!(issued(cloud, &format!("https://login.microsoftonline.us/{TENANT}/v2.0")), None);
        assert_eq!(issued(cloud, &format!("https://login.partner.example/{TENANT}/v2.0")), None);
        assert_eq!(
            issued("https://login.chinacloudapi.cn", &format!("https://sts.chinacloudapi.cn/{TENANT}/")),
            None
        );
        for other in [
            format!("https://sts.windows.net/{APP}/"),
            format!("https://sts.windows.net/{TENANT}"),
            format!("http://sts.windows.net/{TENANT}/"),
            format!("https://sts.windows.net.evil.example/{TENANT}/"),
            format!("https://login.microsoftonline.com/{TENANT}/v2.0"),
            format!("https://login.microsoftonline.us/{TENANT}/v2.0/"),
            String::new(),
        ] {
            assert_eq!(issued(cloud, &other), Some(Doubt::Issuer), "{other}");
        }
    }

    #[test]
    fn a_token_that_only_tells_who_signed_in_admits_nobody() {
        let rules = rules("https://login.microsoftonline.com", Allow::Any);
        assert_eq!(hold(&rules, json!({ "appid": null })), Err(Doubt::NoApplication));
        assert_eq!(hold(&rules, json!({ "appid": null, "azp": APP })), Err(Doubt::NoApplication));
        assert_eq!(hold(&rules, json!({ "appid": "x".repeat(36) })), Err(Doubt::NoApplication));
    }

    #[test]
    fn times_are_held_with_a_minute_of_leeway() {
        let rules = rules("https://login.microsoftonline.com", Allow::Any);
        assert!(hold(&rules, json!({ "exp": 1_441 })).is_ok());
        assert_eq!(hold(&rules, json!({ "exp": 1_440 })), Err(Doubt::Expired));
        assert!(hold(&rules, json!({ "nbf": 1_560 })).is_ok());
        assert_eq!(hold(&rules, json!({ "nbf": 1_561 })), Err(Doubt::NotYet));
        assert!(hold(&rules, json!({ "exp": u64::MAX, "nbf": null })).is_ok());
    }

    #[test]
    fn a_key_of_another_tenant_does_not_sign_for_ours() {
        let rules = rules("https://login.microsoftonline.com", Allow::Any);
        for ours in [
            None,
            Some("https://login.microsoftonline.com/{tenantid}/v2.0"),
            Some(&*format!("https://login.microsoftonline.com/{TENANT}/v2.0")),
        ] {
            assert!(rules.signs_for_us(ours), "{ours:?}");
        }
        // The tenant of personal accounts.
        let personal = "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0";
        assert!(!rules.signs_for_us(Some(personal)));
    }

    #[test]
    fn ids_are_told_from_what_is_none() {
        assert!(is_id(TENANT) && is_id(&TENANT.to_ascii_uppercase()));
        for other in [
            "",
            "any",
            "common",
            "contoso.onmicrosoft.com",
            &TENANT[1..],
            "0000000g-aaaa-bbbb-cccc-000000000001",
            "00000000-aaaa-bbbb-cccc-000000000001-",
        ] {
            assert!(!is_id(other), "{other}");
        }
    }
}
