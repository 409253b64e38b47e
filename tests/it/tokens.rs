//! Callers with tokens of Entra ID: which admit and which do not, and how a tenant's keys are come by.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sidestep::identity::callers::{Callers, Refusal};
use sidestep::identity::entra::{Allow, Doubt, EntraSettings, Pace, keep_fresh};
use sidestep::identity::{CallerKey, CallerRules, CallerSettings};
use sidestep::net::upstream::{Tls, UpstreamSettings};
use sidestep::telemetry::clock;

use super::fixture::tokens::{
    APP, FakeTenant, KEYS, Mood, PERSON, SigningKey, TENANT, base64, claims, configuration, header, signed,
    token_with,
};
use super::fixture::{CHAT, PATIENCE, QUESTION, Scene};
use super::front::Front;
use super::raw::{Answer, Wire, ask, request, until};

fn now() -> u64 {
    clock::unix_ms() / 1_000
}

fn good() -> String {
    token_with(&KEYS[0], now(), &json!({}))
}

/// A balancer that admits tokens of the chat app, and the operator's own key.
fn front(tenant: &FakeTenant) -> Front {
    let callers = format!(
        "[callers]\nkeys = [{{ name = \"ops\", key = \"the-operators-key-0123\" }}]\n\
         [callers.entra]\ntenant = \"{TENANT}\"\nallow = [\"{APP}\"]\nauthority = \"{}\"\n",
        tenant.authority()
    );
    let front = Front::of(Scene::of([("east", 1)]).toml(&callers));
    until("the keys are here", || chat(&front, &bearer(&good())).status == 200);
    front
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

fn chat(front: &Front, headers: &str) -> Answer {
    ask(front.address(), "POST", CHAT, headers, QUESTION)
}

/// The access records so far.
fn records(front: &Front) -> Vec<Value> {
    let log = front.log();
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.filter(|record| record["message"] == "request").collect()
}

/// What is tried, the header lines, the word in the log.
type Attack = (&'static str, String, &'static str);

const MALFORMED: &str = "token malformed";

/// A good token whose head is changed.
fn headed(change: &Value) -> String {
    let mut all = header(&KEYS[0]);
    change.as_object().unwrap().iter().for_each(|(name, value)| all[name] = value.clone());
    bearer(&signed(&KEYS[0], &all, &claims(now())))
}

/// A good token whose claims are changed.
fn claiming(change: &Value) -> String {
    bearer(&token_with(&KEYS[0], now(), change))
}

fn by_algorithm() -> Vec<Attack> {
    let (ours, good) = (&KEYS[0], good());
    let (body, signature) = good.split_once('.').unwrap().1.split_once('.').unwrap();
    let head =
        |alg: &str| base64(json!({ "typ": "JWT", "alg": alg, "kid": ours.kid }).to_string().as_bytes());
    let hmac = |secret: &[u8]| {
        let message = format!("{}.{body}", head("HS256"));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        bearer(&format!("{message}.{}", base64(ring::hmac::sign(&key, message.as_bytes()).as_ref())))
    };
    let word = "token algorithm";
    vec![
        ("alg none without a signature", bearer(&format!("{}.{body}.", head("none"))), MALFORMED),
        ("alg none with a signature", bearer(&format!("{}.{body}.{signature}", head("none"))), MALFORMED),
        ("alg none, another spelling", bearer(&format!("{}.{body}.", head("nOnE"))), MALFORMED),
        ("alg HS256 keyed with the modulus", hmac(&ours.n), word),
        ("alg HS256 keyed with the published text", hmac(base64(&ours.n).as_bytes()), word),
        ("alg HS256 keyed with nothing", hmac(b""), word),
        ("alg RS384 over an RS256 signature", headed(&json!({ "alg": "RS384" })), word),
        ("alg PS256", headed(&json!({ "alg": "PS256" })), word),
        ("alg ES256", headed(&json!({ "alg": "ES256" })), word),
    ]
}

fn by_key() -> Vec<Attack> {
    let (ours, stranger, claims) = (&KEYS[0], &KEYS[2], claims(now()));
    let kid = |kid: &str| headed(&json!({ "kid": kid }));
    let brought = json!({ "alg": "RS256", "kid": ours.kid, "jwk": stranger.published() });
    let fetched =
        json!({ "kid": "of-a-stranger", "jku": "https://evil.example/k", "x5u": "https://evil.example/x" });
    let unknown = "token key unknown";
    vec![
        (
            "a stranger's signature under our kid",
            bearer(&signed(stranger, &header(ours), &claims)),
            "token signature",
        ),
        (
            "a stranger's key brought along in the head",
            bearer(&signed(stranger, &brought, &claims)),
            "token signature",
        ),
        ("a place in the head to fetch the key from", headed(&fetched), unknown),
        ("an unknown kid", kid("who-knows"), unknown),
        ("a kid that is a path", kid("../../../../dev/null"), unknown),
        ("a kid that is a query", kid("key-one' OR '1'='1"), unknown),
        ("a kid in another case", kid("KEY-ONE"), unknown),
        ("an empty kid", kid(""), unknown),
        ("a kid that is no text", headed(&json!({ "kid": 1 })), MALFORMED),
        ("no kid", headed(&json!({ "kid": null })), MALFORMED),
        ("a critical extension", headed(&json!({ "crit": ["b64"], "b64": false })), MALFORMED),
    ]
}

fn by_signature() -> Vec<Attack> {
    let good = good();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = message.split_once('.').unwrap();
    let other = base64(claims(now() + 60).to_string().as_bytes());
    let flipped = if signature.starts_with('A') { "B" } else { "A" }.to_owned() + &signature[1..];
    let deep = base64("[".repeat(9_000).as_bytes());
    let word = "token signature";
    vec![
        ("a flipped bit", bearer(&format!("{message}.{flipped}")), word),
        ("no signature", bearer(&format!("{message}.")), word),
        ("a truncated signature", bearer(&format!("{message}.{}", &signature[..signature.len() - 2])), word),
        ("other claims under a good signature", bearer(&format!("{head}.{other}.{signature}")), word),
        ("deep nesting under a good signature", bearer(&format!("{head}.{deep}.{signature}")), word),
        ("padding in base64", bearer(&format!("{head}==.{body}.{signature}")), MALFORMED),
        ("one part", bearer(head), MALFORMED),
        ("two parts", bearer(message), MALFORMED),
        ("four parts", bearer(&format!("{good}.AAAA")), MALFORMED),
        ("five parts, as of an encrypted one", bearer(&format!("{good}.AAAA.AAAA")), MALFORMED),
        ("a huge token", bearer(&format!("{message}.{}", "A".repeat(40_000))), MALFORMED),
        ("rubbish in base64", bearer("!!!.???.***"), MALFORMED),
        (
            "no JSON in base64",
            bearer(&format!("{}.{}.AAAA", base64(b"not json"), base64(b"nor this"))),
            MALFORMED,
        ),
    ]
}

fn by_claim() -> Vec<Attack> {
    let (ours, now) = (&KEYS[0], now());
    let twice = format!("{{\"aud\":\"https://evil.example\",{}", &claims(now).to_string()[1..]);
    let twice = format!("{}.{}", base64(header(ours).to_string().as_bytes()), base64(twice.as_bytes()));
    let twice = format!("{twice}.{}", base64(&ours.sign(&twice)));
    let nobody = "00000000-0000-0000-0000-000000000000";
    let (audience, issuer, application) = ("token audience", "token issuer", "token without application");
    let longer = "https://cognitiveservices.azure.com.evil.example";
    let list = json!({ "aud": ["https://cognitiveservices.azure.com"] });
    vec![
        ("a claim that stands twice", bearer(&twice), MALFORMED),
        ("another audience", claiming(&json!({ "aud": "https://graph.microsoft.com" })), audience),
        ("an audience that begins like ours", claiming(&json!({ "aud": longer })), audience),
        ("several audiences, ours among them", claiming(&list), MALFORMED),
        ("another issuer", claiming(&json!({ "iss": format!("https://sts.windows.net/{nobody}/") })), issuer),
        (
            "an issuer like ours",
            claiming(&json!({ "iss": format!("https://sts.windows.net.evil.example/{TENANT}/") })),
            issuer,
        ),
        ("another tenant", claiming(&json!({ "tid": nobody })), "token tenant"),
        ("expired", claiming(&json!({ "exp": now - 61 })), "token expired"),
        ("not valid yet", claiming(&json!({ "nbf": now + 120 })), "token not valid yet"),
        ("an expiry before all time", claiming(&json!({ "exp": -1 })), MALFORMED),
        (
            "an application that is not allowed",
            claiming(&json!({ "appid": nobody, "oid": null })),
            "token not allowed",
        ),
        (
            "version 2's application in version 1",
            claiming(&json!({ "appid": null, "azp": APP })),
            application,
        ),
        ("a token that tells who signed in", claiming(&json!({ "appid": null })), application),
        ("no audience", claiming(&json!({ "aud": null })), MALFORMED),
        ("no issuer", claiming(&json!({ "iss": null })), MALFORMED),
        ("no expiry", claiming(&json!({ "exp": null })), MALFORMED),
        ("no tenant", claiming(&json!({ "tid": null })), MALFORMED),
        ("huge claims under a good signature", claiming(&json!({ "groups": "g".repeat(20_000) })), MALFORMED),
    ]
}

fn by_header() -> Vec<Attack> {
    let good = good();
    let (none, twice) = ("401", "token not the only one");
    vec![
        ("nothing after Bearer", bearer(""), none),
        ("a token as Basic", format!("authorization: Basic {good}\r\n"), none),
        ("a token as api-key", format!("api-key: {good}\r\n"), none),
        ("a token as subscription key", format!("ocp-apim-subscription-key: {good}\r\n"), none),
        ("a second Authorization behind a good one", bearer(&good) + &bearer("x"), twice),
        ("a good one behind another Authorization", bearer("x") + &bearer(&good), twice),
        ("the same token twice", bearer(&good).repeat(2), twice),
        ("two tokens in one line", format!("authorization: Bearer {good}, Bearer {good}\r\n"), MALFORMED),
    ]
}

#[test]
fn no_token_that_is_not_good_admits_and_the_log_says_what_is_wrong_with_it() {
    let tenant = FakeTenant::start(Mood::Keys(vec![0, 1]));
    let front = front(&tenant);
    let (served, before) = (front.seen("east"), records(&front).len());
    let attacks = [by_algorithm(), by_key(), by_signature(), by_claim(), by_header()].concat();
    for (attempt, headers, _) in &attacks {
        let answer = chat(&front, headers);
        assert_eq!((answer.status, answer.code().as_str()), (401, "401"), "{attempt}: {answer:?}");
        let told = &answer.json()["error"]["message"];
        let usual = "Access denied: no valid key or token for this balancer was given.";
        assert_eq!(told, usual, "{attempt}: the caller is not told what is wrong");
    }
    assert_eq!(front.seen("east"), served, "no backend heard of them");
    let records = records(&front);
    for ((attempt, _, word), record) in attacks.iter().zip(&records[before..]) {
        assert_eq!((&record["error"], &record["caller"]), (&json!(word), &Value::Null), "{attempt}");
    }
    assert_eq!(records.len(), before + attacks.len());
    assert_eq!(chat(&front, &bearer(&good())).status, 200, "and good ones still do");
}

#[test]
fn a_good_token_admits_as_its_application_in_every_form_that_clients_send_it() {
    let tenant = FakeTenant::start(Mood::Keys(vec![0, 1]));
    let front = front(&tenant);
    let good = good();
    let version2 = json!({
        "iss": format!("{}/{TENANT}/v2.0", tenant.authority()), "appid": null, "azp": APP, "ver": "2.0",
    });
    let of_the_documents = json!({
        "iss": format!("https://login.microsoftonline.com/{TENANT}/v2.0"), "appid": null, "azp": APP,
    });
    for (what, headers) in [
        ("as it is", bearer(&good)),
        ("a scheme in lower case", format!("authorization: bearer {good}\r\n")),
        ("a scheme in upper case, two blanks", format!("authorization: BEARER  {good}\r\n")),
        (
            "in two headers, as the JavaScript sample sends it",
            format!("{}api-key: {good}\r\n", bearer(&good)),
        ),
        ("beside a key that is none", format!("{}api-key: none\r\n", bearer(&good))),
        ("by the second key", bearer(&token_with(&KEYS[1], now(), &json!({})))),
        (
            "an audience with a slash",
            bearer(&token_with(&KEYS[0], now(), &json!({ "aud": "https://cognitiveservices.azure.com/" }))),
        ),
        (
            "for the newer audience",
            bearer(&token_with(&KEYS[0], now(), &json!({ "aud": "https://ai.azure.com" }))),
        ),
        ("version 2", bearer(&token_with(&KEYS[0], now(), &version2))),
        ("version 2 by the issuer of the documents", bearer(&token_with(&KEYS[0], now(), &of_the_documents))),
        ("expired within the leeway", bearer(&token_with(&KEYS[0], now(), &json!({ "exp": now() - 30 })))),
        ("begun within the leeway", bearer(&token_with(&KEYS[0], now(), &json!({ "nbf": now() + 30 })))),
    ] {
        assert_eq!(chat(&front, &headers).status, 200, "{what}");
        assert_eq!(records(&front).last().unwrap()["caller"], APP, "{what}");
    }
    assert_eq!(chat(&front, "api-key: the-operators-key-0123\r\n").status, 200);
    assert_eq!(records(&front).last().unwrap()["caller"], "ops");
    let both = format!("{}api-key: the-operators-key-0123\r\n", bearer("rubbish"));
    assert_eq!(chat(&front, &both).status, 200, "a key of ours beside a token that is for somebody else");
    let metrics = ask(front.admin(), "GET", "/metrics", "", "");
    assert!(metrics.text().contains(&format!("caller=\"{APP}\"")));
    let sent = front.resource("east").last_request().unwrap();
    assert!(!format!("{:?}", sent.headers).contains("uthorization\""), "a caller's token does not travel");
}

/// Tokens without a balancer: callers, and whoever fetches the keys, on a thread of its own.
struct Desk {
    callers: Arc<Callers>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Desk {
    fn at(tenant: &FakeTenant, pace: Pace) -> Self {
        Self::of(settings(tenant, Allow::Ids(vec![APP.to_owned()])), pace)
    }

    fn of(settings: EntraSettings, pace: Pace) -> Self {
        let settings = CallerSettings { entra: Some(settings), ..CallerSettings::default() };
        let callers = Callers::new(settings, "127.0.0.1:0".parse().unwrap(), None);
        let keys = Arc::clone(callers.entra_keys().unwrap());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let options = tokio::runtime::LocalOptions::default();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build_local(options).unwrap();
            let upstream = UpstreamSettings { connect_timeout: PATIENCE, ca_file: None };
            let tls = Tls::new(&upstream).unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = keep_fresh(keys, tls, pace) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { callers: Arc::new(callers), _stop: stop }
    }

    fn ask(&self, token: &str) -> Result<String, Refusal> {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let caller = self.callers.admit(&headers, None, now())?;
        Ok(caller.name.unwrap().to_string())
    }
}

fn settings(tenant: &FakeTenant, allow: Allow) -> EntraSettings {
    let audiences = vec![super::fixture::tokens::AUDIENCE.to_owned()];
    EntraSettings { tenant: TENANT.to_owned(), audiences, allow, authority: tenant.authority() }
}

/// As good as at once, so that tests need not wait.
const QUICK: Pace = Pace {
    refresh: Duration::from_millis(20),
    least: Duration::from_millis(5),
    first_retry: Duration::from_millis(1),
};
/// Never by itself, and no sooner than at once when asked.
const WHEN_ASKED: Pace = Pace {
    refresh: Duration::from_secs(3_600),
    least: Duration::from_millis(1),
    first_retry: Duration::from_millis(1),
};

fn of(key: &SigningKey) -> String {
    token_with(key, now(), &json!({}))
}

#[test]
fn until_keys_have_come_the_answer_is_503_and_worth_another_try_but_rubbish_is_401() {
    let tenant = FakeTenant::start(Mood::Silence);
    let entra = format!(
        "[callers.entra]\ntenant = \"{TENANT}\"\nallow = [\"any\"]\nauthority = \"{}\"\n",
        tenant.authority()
    );
    let front = Front::of(Scene::of([("east", 1)]).toml(&entra));
    let answer = chat(&front, &bearer(&good()));
    assert_eq!((answer.status, answer.code().as_str()), (503, "token_keys_missing"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(chat(&front, "").status, 401);
    assert_eq!(chat(&front, &bearer("rubbish")).status, 401);
    assert_eq!(chat(&front, &bearer("a.b.c")).status, 401);
    assert_eq!(front.seen("east"), 0);
}

#[test]
fn whatever_a_tenant_answers_instead_of_keys_it_is_asked_again_and_then_believed() {
    let documents = |configuration: Value, keys: &[u8]| Mood::Documents {
        configuration: configuration.to_string().into_bytes(),
        keys: keys.to_vec(),
    };
    let here = FakeTenant::start(Mood::Keys(vec![0]));
    let ours = json!({ "issuer": configuration(here.address)["issuer"], "jwks_uri": "http://here/keys" });
    let elsewhere = |jwks_uri: &str| json!({ "issuer": ours["issuer"], "jwks_uri": jwks_uri });
    let personal = "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0";
    let mut of_personal_accounts = KEYS[0].published();
    of_personal_accounts["issuer"] = json!(personal);
    let mut for_encryption = KEYS[0].published();
    for_encryption["use"] = json!("enc");
    let symmetric = json!({ "kty": "oct", "kid": KEYS[0].kid, "k": "AAAA" });
    let set = |key: Value| json!({ "keys": [key] }).to_string().into_bytes();
    for (what, mood) in [
        ("500", Mood::Status(500)),
        ("404", Mood::Status(404)),
        (
            "a redirect to good ones",
            Mood::Redirect(format!("{}/{TENANT}/v2.0/.well-known/openid-configuration", here.authority())),
        ),
        ("a body without end", Mood::Endless),
        ("a closed connection", Mood::Close),
        ("no JSON", Mood::Documents { configuration: b"<html>".to_vec(), keys: Vec::new() }),
        ("keys that are no JSON", documents(ours.clone(), b"<html>")),
        ("no keys", documents(ours.clone(), br#"{"keys":[]}"#)),
        ("keys of another kind", documents(ours.clone(), &set(symmetric))),
        ("keys for encryption", documents(ours.clone(), &set(for_encryption))),
        ("a key of personal accounts", documents(ours.clone(), &set(of_personal_accounts))),
        (
            "another tenant's configuration",
            documents(json!({ "issuer": personal, "jwks_uri": ours["jwks_uri"] }), &set(KEYS[0].published())),
        ),
        ("keys over plain http elsewhere", documents(elsewhere("http://keys.example/"), b"")),
        ("keys in a file", documents(elsewhere("file:///etc/passwd"), b"")),
    ] {
        let tenant = FakeTenant::start(mood);
        let desk = Desk::at(&tenant, QUICK);
        until(what, || tenant.asked() >= 3);
        assert_eq!(desk.ask(&of(&KEYS[0])), Err(Refusal::KeysMissing), "{what}");
        tenant.mood(Mood::Keys(vec![0]));
        until(what, || desk.ask(&of(&KEYS[0])).is_ok());
    }
}

#[test]
fn a_new_key_is_fetched_when_somebody_comes_with_it() {
    let tenant = FakeTenant::start(Mood::Keys(vec![0]));
    let desk = Desk::at(&tenant, WHEN_ASKED);
    until("the first key", || desk.ask(&of(&KEYS[0])).is_ok());
    tenant.mood(Mood::Keys(vec![0, 1]));
    until("the second key", || desk.ask(&of(&KEYS[1])).is_ok());
    assert!(desk.ask(&of(&KEYS[0])).is_ok(), "the first is still good");
}

#[test]
fn however_many_unknown_keys_are_asked_for_the_tenant_is_not_stormed() {
    let tenant = FakeTenant::start(Mood::Keys(vec![0]));
    let least = Duration::from_secs(3_600);
    let desk = Desk::at(&tenant, Pace { refresh: least * 2, least, ..WHEN_ASKED });
    until("the keys", || desk.ask(&of(&KEYS[0])).is_ok());
    for _ in 0..100 {
        assert_eq!(desk.ask(&of(&KEYS[2])), Err(Doubt::UnknownKey.into()));
    }
    assert_eq!(tenant.asked(), 1);
}

#[test]
fn a_fetch_that_fails_leaves_the_keys_and_a_key_that_goes_takes_its_tokens_with_it() {
    let tenant = FakeTenant::start(Mood::Keys(vec![0, 1]));
    let desk = Desk::at(&tenant, QUICK);
    let (one, two) = (of(&KEYS[0]), of(&KEYS[1]));
    until("the keys", || desk.ask(&one).is_ok() && desk.ask(&two).is_ok());
    for mood in
        [Mood::Status(503), Mood::Close, Mood::Documents { configuration: b"{}".to_vec(), keys: Vec::new() }]
    {
        tenant.mood(mood.clone());
        let before = tenant.asked();
        until("some failures", || tenant.asked() > before + 2);
        let another = token_with(&KEYS[0], now(), &json!({ "nonce": format!("{mood:?}") }));
        assert!(desk.ask(&one).is_ok() && desk.ask(&another).is_ok(), "{mood:?}");
    }
    tenant.mood(Mood::Keys(vec![0]));
    until("the second key is gone", || desk.ask(&two).is_err());
    assert!(desk.ask(&one).is_ok());
}

#[test]
fn a_tenant_that_does_not_answer_holds_up_nobody() {
    let tenant = FakeTenant::start(Mood::Silence);
    let desk = Desk::at(&tenant, QUICK);
    until("it is asked", || tenant.asked() > 0);
    assert_eq!(desk.ask(&of(&KEYS[0])), Err(Refusal::KeysMissing));
}

#[test]
fn a_token_is_good_until_its_own_end_and_not_a_second_longer_than_its_leeway() {
    let tenant = FakeTenant::start(Mood::Keys(vec![0]));
    let desk = Desk::at(&tenant, WHEN_ASKED);
    let (now, mut headers) = (now(), http::HeaderMap::new());
    headers.insert("authorization", format!("Bearer {}", of(&KEYS[0])).parse().unwrap());
    let at = |seconds: u64| desk.callers.admit(&headers, None, seconds).map(|_| ());
    until("the keys", || at(now).is_ok());
    assert_eq!(at(now + 3_650), Ok(()), "verified once, it was kept; within the leeway it is verified again");
    assert_eq!(at(now + 3_700), Err(Doubt::Expired.into()));
    assert_eq!(at(now - 120), Ok(()), "kept as verified, whatever the clock does");
}

#[test]
fn objects_may_be_allowed_as_well_and_anybody_where_that_is_written() {
    let tenant = FakeTenant::start(Mood::Keys(vec![0]));
    for (allow, name) in [
        (Allow::Ids(vec![PERSON.to_ascii_uppercase()]), PERSON.to_ascii_uppercase()),
        (Allow::Any, APP.to_owned()),
    ] {
        let desk = Desk::of(settings(&tenant, allow), WHEN_ASKED);
        until("the keys", || desk.ask(&of(&KEYS[0])) != Err(Refusal::KeysMissing));
        assert_eq!(desk.ask(&of(&KEYS[0])).unwrap().to_ascii_lowercase(), name.to_ascii_lowercase());
    }
}

#[test]
fn a_reload_keeps_the_keys_of_the_tenant_and_takes_the_new_list() {
    let tenant = FakeTenant::start(Mood::Keys(vec![0]));
    let front = front(&tenant);
    let good = bearer(&good());
    tenant.mood(Mood::Silence);
    let other = front.text.replace(APP, PERSON);
    front.balancer.reload(super::fixture::settings(&other)).unwrap();
    assert_eq!(chat(&front, &good).status, 200, "as the user, at once, though no key can be fetched");
    assert_eq!(records(&front).last().unwrap()["caller"], PERSON);
    let nobody = front.text.replace(APP, "00000000-0000-0000-0000-000000000001");
    front.balancer.reload(super::fixture::settings(&nobody)).unwrap();
    assert_eq!(chat(&front, &good).status, 401, "what was verified under the old list is forgotten");
}

#[test]
fn keys_and_anonymous_callers_go_together_with_tokens() {
    let tenant = FakeTenant::start(Mood::Silence);
    let key = CallerKey { name: "app".into(), key: "k".into(), rules: CallerRules::default() };
    let settings = CallerSettings {
        anonymous: true,
        keys: vec![key],
        entra: Some(settings(&tenant, Allow::Any)),
        ..CallerSettings::default()
    };
    let callers = Callers::new(settings, "127.0.0.1:0".parse().unwrap(), None);
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {}", good()).parse().unwrap());
    assert_eq!(callers.admit(&headers, None, now()).unwrap().name, None, "no keys yet: as anybody");
    headers.insert("api-key", "k".parse().unwrap());
    assert_eq!(callers.admit(&headers, None, now()).unwrap().name.as_deref(), Some("app"));
}

#[test]
fn a_token_over_http_2_and_on_an_upgrade_is_held_to_the_same_rules() {
    let tenant = FakeTenant::start(Mood::Keys(vec![0]));
    let front = front(&tenant);
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let bad = bearer(&token_with(&KEYS[0], now(), &json!({ "exp": 1 })));
    let asked = request("GET", "/openai/v1/realtime?model=gpt-4o", &format!("{bad}{upgrade}"), "");
    assert_eq!(Wire::to(front.address()).send(asked).answer().unwrap().status, 401);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let caller = front.caller_http2();
        for (token, status) in [(good(), 200), (token_with(&KEYS[2], now(), &json!({})), 401)] {
            let mut asked = super::fixture::caller::post(CHAT, QUESTION);
            asked.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            assert_eq!(caller.send(asked).await.whole().await.status, status);
        }
    });
}
