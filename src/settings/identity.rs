//! With what a backend is called: a key, or an identity of Entra ID and where its tokens come from.

use std::path::PathBuf;
use std::sync::Arc;

use secrecy::SecretString;

use crate::identity::Credential;
use crate::identity::token::{TokenSettings, TokenSource};
use crate::net::upstream::Origin;
use crate::settings::address::Address;
use crate::settings::environment::Environment;
use crate::settings::problem::{Located, Place, Problems, nearest, shown};
use crate::settings::reader::Table;
use crate::settings::value;

/// What every classic and AI Services resource accepts (azure-openai.md 6.3).
pub(super) const SCOPE: &str = "https://cognitiveservices.azure.com/.default";
/// Of the public cloud.
pub(super) const AUTHORITY: &str = "https://login.microsoftonline.com";
const IMDS: &str = "http://169.254.169.254";

/// The ways to sign in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Managed,
    Workload,
    ClientSecret,
    AzureCli,
    Default,
    Caller,
}

const KINDS: [(&str, Kind); 6] = [
    ("managed", Kind::Managed),
    ("workload", Kind::Workload),
    ("client-secret", Kind::ClientSecret),
    ("azure-cli", Kind::AzureCli),
    ("default", Kind::Default),
    ("caller", Kind::Caller),
];

/// What a `[[backends]]` says of it.
#[derive(Debug, Default)]
pub(super) struct RawIdentity {
    pub(super) kind: Option<Located<Kind>>,
    pub(super) tenant_id: Option<Located<String>>,
    pub(super) client_id: Option<Located<String>>,
    pub(super) client_secret: Option<Located<SecretString>>,
    pub(super) scope: Option<Located<String>>,
    pub(super) authority: Option<Located<Address>>,
}

/// Reads the keys; says what is missing or too much.
pub(super) fn read(table: &mut Table<'_>) -> RawIdentity {
    let raw = RawIdentity {
        kind: table.parsed("identity", kind),
        tenant_id: table.parsed("tenant_id", id),
        client_id: table.parsed("client_id", id),
        client_secret: table.secret("client_secret", value::api_key),
        scope: table.parsed("scope", scope),
        authority: table.parsed("authority", authority),
    };
    let problems = table.problems();
    let keyed = table.has("api_key");
    if keyed && let Some(kind) = &raw.kind {
        problems.refuse(kind, "either `api_key` or `identity`, not both");
    } else if !keyed && !table.has("identity") {
        let expected = "the key of this resource, or instead `identity = \"default\"` to sign in without one";
        problems.add(table.path("api_key"), &table.place(), "nothing", expected);
    }
    if !table.has("identity") {
        for key in ["tenant_id", "client_id", "client_secret", "scope", "authority"] {
            if table.has(key) {
                let expected = "this key only beside `identity`";
                problems.add(table.path(key), &table.place_of(key), format!("`{key}`"), expected);
            }
        }
    }
    raw
}

/// What it comes to; `None` when something is missing, which is told.
pub(super) fn resolve(
    raw: RawIdentity,
    environment: &Environment,
    problems: &Problems,
) -> Option<Credential> {
    let kind = raw.kind.as_ref()?;
    refuse_unused(&raw, kind, problems);
    let at = (kind.key.clone(), kind.place.clone());
    let asked = Asked { environment, problems, at, raw: &raw };
    let source = match kind.value {
        Kind::Caller => return Some(Credential::Caller),
        Kind::Managed => asked.managed(),
        Kind::Workload => asked.workload(),
        Kind::ClientSecret => asked.client_secret(),
        Kind::AzureCli => Some(TokenSource::AzureCli { tenant_id: asked.tenant() }),
        Kind::Default => asked.first_configured(),
    }?;
    let scope: Arc<str> = raw.scope.as_ref().map_or(SCOPE, |scope| scope.value.as_str()).into();
    Some(Credential::Token(TokenSettings { source, scope }))
}

/// A key that changes nothing is a mistake about what happens.
fn refuse_unused(raw: &RawIdentity, kind: &Located<Kind>, problems: &Problems) {
    let word = KINDS.iter().find(|(_, known)| *known == kind.value).map_or("", |(word, _)| word);
    let expected = format!("no such key with `identity = \"{word}\"`, which does not use it");
    let (tenant, client, secret, authority, scope) = match kind.value {
        Kind::Managed => (false, true, false, false, true),
        Kind::Workload => (true, true, false, true, true),
        Kind::ClientSecret | Kind::Default => (true, true, true, true, true),
        Kind::AzureCli => (true, false, false, false, true),
        Kind::Caller => (false, false, false, false, false),
    };
    let refuse = |key: &str, place: &Place| problems.add(key, place, format!("`{}`", last(key)), &*expected);
    for (used, set) in [(tenant, &raw.tenant_id), (client, &raw.client_id), (scope, &raw.scope)] {
        if let (false, Some(set)) = (used, set) {
            refuse(&set.key, &set.place);
        }
    }
    if let (false, Some(set)) = (secret, &raw.client_secret) {
        refuse(&set.key, &set.place);
    }
    if let (false, Some(set)) = (authority, &raw.authority) {
        refuse(&set.key, &set.place);
    }
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// One backend's identity, asked of settings and environment.
struct Asked<'a> {
    environment: &'a Environment,
    problems: &'a Problems,
    /// Where `identity` stands.
    at: (String, Place),
    raw: &'a RawIdentity,
}

impl Asked<'_> {
    fn text(&self, set: Option<&Located<String>>, variable: &str) -> Option<String> {
        set.map(|set| set.value.clone())
            .or_else(|| self.environment.parsed(variable, self.problems, id).map(|set| set.value))
    }

    fn tenant(&self) -> Option<String> {
        self.text(self.raw.tenant_id.as_ref(), "AZURE_TENANT_ID")
    }

    fn client(&self) -> Option<String> {
        self.text(self.raw.client_id.as_ref(), "AZURE_CLIENT_ID")
    }

    fn secret(&self) -> Option<SecretString> {
        let set = self.raw.client_secret.as_ref().map(|set| set.value.clone());
        set.or_else(|| {
            let set = self.environment.secret("AZURE_CLIENT_SECRET", self.problems, value::api_key);
            set.map(|set| set.value)
        })
    }

    fn authority(&self) -> Option<Origin> {
        if let Some(set) = &self.raw.authority {
            return Some(origin(set.value.clone()));
        }
        match self.environment.given("AZURE_AUTHORITY_HOST") {
            // Written with and without a scheme.
            Some(host) => {
                let url = if host.contains("://") { host.to_owned() } else { format!("https://{host}") };
                let set = self.environment.parsed("AZURE_AUTHORITY_HOST", self.problems, |_| authority(&url));
                set.map(|set| origin(set.value))
            }
            None => authority(AUTHORITY).ok().map(origin),
        }
    }

    /// `None` and a problem when something of these is missing.
    fn missing<T>(&self, what: &[(&str, bool)]) -> Option<T> {
        let missing: Vec<&str> = what.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
        let (key, place) = &self.at;
        let expected = format!("beside it {}", missing.join(", "));
        self.problems.add(key, place, "an identity of which something is missing", expected);
        None
    }

    fn managed(&self) -> Option<TokenSource> {
        match self.platform() {
            Some(platform) => platform,
            None => Some(TokenSource::Imds { endpoint: self.imds()?, client_id: self.client() }),
        }
    }

    /// What Container Apps, App Service and Functions set. Outer `None`: they did not.
    fn platform(&self) -> Option<Option<TokenSource>> {
        let endpoint = self.environment.given("IDENTITY_ENDPOINT")?;
        if self.environment.given("IDENTITY_HEADER").is_none() {
            let expected = "IDENTITY_HEADER beside it, as Container Apps and App Service set it; Azure Arc and Service \
                            Fabric are not supported";
            self.problems.add("IDENTITY_ENDPOINT", &Place::Environment, shown(endpoint), expected);
            return Some(None);
        }
        let header = self.environment.secret("IDENTITY_HEADER", self.problems, value::api_key)?;
        let endpoint = self.environment.parsed("IDENTITY_ENDPOINT", self.problems, near);
        Some(endpoint.map(|endpoint| TokenSource::Platform {
            endpoint: origin(endpoint.value),
            header: header.value,
            client_id: self.client(),
        }))
    }

    fn imds(&self) -> Option<Origin> {
        const MOVED: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
        if self.environment.given(MOVED).is_some() {
            return self.environment.parsed(MOVED, self.problems, near).map(|set| origin(set.value));
        }
        near(IMDS).ok().map(origin)
    }

    fn workload(&self) -> Option<TokenSource> {
        let file = self.environment.given("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from);
        match (self.tenant(), self.client(), file, self.authority()?) {
            (Some(tenant_id), Some(client_id), Some(file), authority) => {
                Some(TokenSource::Workload { authority, tenant_id, client_id, file })
            }
            (tenant, client, file, _) => self.missing(&[
                ("tenant_id (or AZURE_TENANT_ID)", tenant.is_some()),
                ("client_id (or AZURE_CLIENT_ID)", client.is_some()),
                ("AZURE_FEDERATED_TOKEN_FILE, which AKS sets", file.is_some()),
            ]),
        }
    }

    fn client_secret(&self) -> Option<TokenSource> {
        match (self.tenant(), self.client(), self.secret(), self.authority()?) {
            (Some(tenant_id), Some(client_id), Some(secret), authority) => {
                Some(TokenSource::ClientSecret { authority, tenant_id, client_id, secret })
            }
            (tenant, client, secret, _) => self.missing(&[
                ("tenant_id (or AZURE_TENANT_ID)", tenant.is_some()),
                ("client_id (or AZURE_CLIENT_ID)", client.is_some()),
                ("client_secret (or AZURE_CLIENT_SECRET)", secret.is_some()),
            ]),
        }
    }

    /// `default`: what is set up on this machine, the most deliberate first.
    fn first_configured(&self) -> Option<TokenSource> {
        // Half of one may be there for another program.
        let whole = self.tenant().is_some() && self.client().is_some();
        if whole && self.secret().is_some() {
            return self.client_secret();
        }
        if whole && self.environment.given("AZURE_FEDERATED_TOKEN_FILE").is_some() {
            return self.workload();
        }
        if let Some(platform) = self.platform() {
            return platform;
        }
        let (client_id, tenant_id) = (self.client(), self.tenant());
        Some(TokenSource::Probed { endpoint: self.imds()?, client_id, tenant_id })
    }
}

fn origin(address: Address) -> Origin {
    let Address { tls, host, port, path_prefix, cut: _ } = address;
    Origin { tls, host, port, path_prefix, http2: false }
}

fn kind(text: &str) -> Result<Kind, String> {
    let words = KINDS.map(|(word, _)| word);
    KINDS.iter().find(|(word, _)| *word == text.trim()).map(|(_, kind)| *kind).ok_or_else(|| {
        match nearest(text.trim(), words) {
            Some(known) => format!("a way to sign in; the nearest is \"{known}\""),
            None => format!("one of {}", words.map(|word| format!("\"{word}\"")).join(", ")),
        }
    })
}

/// Ids are GUIDs, tenants may be domains.
fn id(text: &str) -> Result<String, String> {
    let text = text.trim();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if !text.is_empty() && text.len() <= 200 && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("an id as the portal shows it, such as \"11111111-2222-3333-4444-555555555555\"".to_owned())
    }
}

fn scope(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.contains("://") && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(format!("a scope such as \"{SCOPE}\""))
    }
}

/// Where secrets are exchanged for tokens: never in the open.
fn authority(text: &str) -> Result<Address, String> {
    let address = Address::parse(text)?;
    if address.tls || address.is_loopback() {
        Ok(address)
    } else {
        Err(format!("an https address such as \"{AUTHORITY}\"; plain http only to this machine"))
    }
}

/// A token service that only this machine can reach: loopback, or link-local as the platforms have it
/// (169.254.169.254, and 169.254.x.x for the apps of App Service).
fn near(text: &str) -> Result<Address, String> {
    let address = Address::parse(text)?;
    let link_local = address.host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_link_local());
    if address.tls || address.is_loopback() || link_local {
        Ok(address)
    } else {
        Err("an https address; plain http only to this machine and to 169.254.0.0/16".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use crate::identity::Credential;
    use crate::settings::describe;
    use crate::settings::load;
    use crate::settings::tests::{from_environment, text, variables};

    #[test]
    fn a_backend_has_a_key_or_an_identity_and_what_is_wrong_with_an_identity_is_told() {
        for (lines, key, expected) in [
            ("", "backends[0].api_key", "identity = \"default\""),
            ("api_key = \"k\"\nidentity = \"managed\"", "backends[0].identity", "not both"),
            ("identity = \"manged\"", "backends[0].identity", "\"managed\""),
            ("api_key = \"k\"\nclient_id = \"a\"", "backends[0].client_id", "only beside `identity`"),
            ("identity = \"azure-cli\"\nclient_id = \"a\"", "backends[0].client_id", "does not use it"),
            ("identity = \"caller\"\nscope = \"https://a/.default\"", "backends[0].scope", "does not use it"),
            (
                "identity = \"client-secret\"",
                "backends[0].identity",
                "tenant_id (or AZURE_TENANT_ID), client_id",
            ),
            (
                "identity = \"workload\"\ntenant_id = \"t\"",
                "backends[0].identity",
                "AZURE_FEDERATED_TOKEN_FILE",
            ),
            ("identity = \"managed\"\nclient_id = \"a b\"", "backends[0].client_id", "an id"),
            ("identity = \"managed\"\nscope = \"everything\"", "backends[0].scope", "a scope such as"),
            (
                "identity = \"client-secret\"\ntenant_id = \"t\"\nclient_id = \"c\"\nclient_secret = \"hunter2\"\n\
                 authority = \"http://login.example\"",
                "backends[0].authority",
                "plain http only to this machine",
            ),
        ] {
            let told =
                load(&text(&format!("[[backends]]\nurl = \"https://west\"\n{lines}")), &variables(&[]));
            let told = told.unwrap_err();
            assert_eq!(told.problems().len(), 1, "{lines}: {told}");
            let problem = &told.problems()[0];
            assert_eq!(problem.key, key, "{told}");
            assert!(problem.expected.contains(expected), "{told}");
            assert!(!told.to_string().contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn default_is_the_most_deliberate_identity_that_is_set_up() {
        let platform = [("IDENTITY_ENDPOINT", "http://localhost:42356/msi/token"), ("IDENTITY_HEADER", "h")];
        let workload =
            [("AZURE_FEDERATED_TOKEN_FILE", "/t"), ("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
        let secret = [("AZURE_CLIENT_SECRET", "s")];
        let all: Vec<_> = platform.into_iter().chain(workload).chain(secret).collect();
        let half = [("AZURE_CLIENT_SECRET", "of another program"), ("AZURE_TENANT_ID", "t")];
        for (set, word) in [
            (&half[..], "managed identity of the machine, else Azure CLI"),
            (&all[..0], "managed identity of the machine, else Azure CLI"),
            (&all[..2], "managed identity of the platform"),
            (&all[..5], "workload identity"),
            (&all[..], "client secret"),
        ] {
            let mut set = set.to_vec();
            set.push(("BACKEND_1_URL", "https://west"));
            let settings = from_environment(&set).unwrap();
            let Credential::Token(token) = &settings.upstreams[0].credential else { panic!("{word}") };
            assert_eq!(token.source.word(), word);
            assert_eq!(&*token.scope, "https://cognitiveservices.azure.com/.default");
            assert!(describe(&settings).contains(word));
        }
    }

    #[test]
    fn a_token_service_is_asked_in_the_open_only_where_nobody_else_hears() {
        let endpoint = |url: &str| {
            from_environment(&[
                ("BACKEND_1_URL", "https://west"),
                ("IDENTITY_ENDPOINT", url),
                ("IDENTITY_HEADER", "the-header"),
            ])
        };
        assert!(endpoint("http://169.254.129.3:8081/msi/token").is_ok());
        assert!(endpoint("https://identity.example/token").is_ok());
        let without_header = from_environment(&[
            ("BACKEND_1_URL", "https://west"),
            ("IDENTITY_ENDPOINT", "http://localhost:1/t"),
        ]);
        let told = without_header.unwrap_err();
        assert_eq!(told.problems()[0].key, "IDENTITY_ENDPOINT");
        assert!(told.problems()[0].expected.contains("IDENTITY_HEADER"), "{told}");
        let told = endpoint("http://10.0.0.1/msi/token").unwrap_err();
        assert_eq!(told.problems()[0].key, "IDENTITY_ENDPOINT");
        assert!(!told.to_string().contains("the-header"), "{told}");
        let mut set = vec![("BACKEND_1_URL", "https://west"), ("AZURE_CLIENT_SECRET", "hunter2")];
        set.extend([("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")]);
        for (host, good) in [
            ("login.microsoftonline.us", true),
            ("https://login.chinacloudapi.cn/", true),
            ("http://login.example", false),
        ] {
            let mut set = set.clone();
            set.push(("AZURE_AUTHORITY_HOST", host));
            assert_eq!(from_environment(&set).is_ok(), good, "{host}");
        }
    }
}
