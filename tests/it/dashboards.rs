//! `config/grafana` and `config/prometheus` speak of metrics that there are, with labels and values that they have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sidestep::simulator::Fault;

use super::fixture::{CHAT, QUESTION, Scene};
use super::front::Front;
use super::raw::{ask, get};

/// What Prometheus and Grafana add.
const FOREIGN: [&str; 4] = ["job", "instance", "le", "severity"];
/// Labels whose values are ours to say. Others come from settings and callers.
const CLOSED: [&str; 3] = ["state", "kind", "verdict"];

/// By metric name: its labels, and the values of each.
type Known = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Every metric that there is, after traffic that makes each appear: served, failed over, exhausted.
fn known() -> Known {
    let front = Front::of(Scene::of([("east", 1), ("west", 2)]));
    let chat = || ask(front.address(), "POST", CHAT, "", QUESTION).status;
    assert_eq!(chat(), 200);
    front.resource("east").fault(Fault::throttle_seconds(50));
    assert_eq!(chat(), 200);
    front.resource("west").fault(Fault::throttle_seconds(50));
    assert_eq!(chat(), 429);
    let mut known = Known::new();
    // No traffic of one test meets every verdict.
    let verdicts = verdicts();
    assert!(verdicts.len() > 10 && verdicts.contains("served"), "{verdicts:?}");
    known.entry("sidestep_attempts_total".to_owned()).or_default().insert("verdict".to_owned(), verdicts);
    for line in get(front.admin(), "/metrics").text().lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels_of = known.entry(name.to_owned()).or_default();
        for (label, value) in pairs(labels.trim_end_matches('}')) {
            labels_of.entry(label).or_default().insert(value);
        }
    }
    known
}

/// The words of the code itself.
fn verdicts() -> BTreeSet<String> {
    let code = include_str!("../../src/balance/verdict.rs");
    let words = code.split_once("pub fn word(").unwrap().1.split_once("\n    }\n").unwrap().0;
    words.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// `a="b",c=~"d"` as names and values; operators do not matter.
fn pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some((label, after)) = rest.split_once('"') {
        let (value, after) = after.split_once('"').unwrap();
        let label = label.trim_matches([',', ' ', '=', '~', '!']);
        pairs.push((label.to_owned(), value.to_owned()));
        rest = after;
    }
    pairs
}

/// What an expression says of metrics that there are not.
fn mistakes(expression: &str, known: &Known) -> Vec<String> {
    let mut mistakes = Vec::new();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in expression.match_indices("sidestep_") {
        let name: String = expression[at..].chars().take_while(|c| is_name(*c)).collect();
        let Some(labels) = known.get(&name) else {
            mistakes.push(format!("no metric {name}"));
            continue;
        };
        let Some(selector) = expression[at + name.len()..].strip_prefix('{') else { continue };
        for (label, value) in pairs(selector.split_once('}').unwrap().0) {
            if FOREIGN.contains(&label.as_str()) {
                continue;
            }
            let Some(values) = labels.get(&label) else {
                mistakes.push(format!("{name} has no label {label}"));
                continue;
            };
            if CLOSED.contains(&label.as_str()) {
                let unknown = value.split('|').filter(|value| !values.contains(*value));
                mistakes.extend(unknown.map(|value| format!("{name} has no {label} {value}")));
            }
        }
    }
    let labels: BTreeSet<&str> =
        known.values().flat_map(BTreeMap::keys).map(String::as_str).chain(FOREIGN).collect();
    for (_, grouped) in expression.match_indices(" by (").map(|(at, by)| expression.split_at(at + by.len())) {
        let grouped = grouped.split_once(')').unwrap().0.split(',').map(str::trim);
        mistakes.extend(grouped.filter(|label| !labels.contains(label)).map(|label| format!("by {label}")));
    }
    mistakes
}

/// Every string below this key, wherever it stands.
fn strings<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_str));
            fields.values().for_each(|value| strings(value, key, found));
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, key, found)),
        _ => {}
    }
}

fn shipped(file: &str) -> String {
    std::fs::read_to_string(format!("{}/config/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_dashboard_and_the_alerts_speak_of_metrics_that_there_are() {
    let known = known();
    let dashboard: Value = serde_json::from_str(&shipped("grafana/sidestep.json")).unwrap();
    let mut expressions = Vec::new();
    strings(&dashboard, "expr", &mut expressions);
    strings(&dashboard, "definition", &mut expressions);
    assert!(expressions.len() > 15, "{expressions:?}");
    let alerts = shipped("prometheus/alerts.yml");
    assert!(alerts.matches("sidestep_").count() > 5);
    expressions.push(&alerts);
    let mistakes: Vec<String> = expressions.iter().flat_map(|one| mistakes(one, &known)).collect();
    assert!(mistakes.is_empty(), "{mistakes:#?}\nknown: {:#?}", known.keys());
}

#[test]
fn a_wrong_name_label_value_or_grouping_is_found() {
    let known = known();
    for (expression, mistake) in [
        ("rate(sidestep_request_total[5m])", "no metric sidestep_request_total"),
        (r#"sidestep_requests_total{backend="x"}"#, "sidestep_requests_total has no label backend"),
        (r#"sidestep_lane_state{state=~"cooling|cooled"}"#, "sidestep_lane_state has no state cooled"),
        (r#"sidestep_attempts_total{verdict="throtled"}"#, "sidestep_attempts_total has no verdict throtled"),
        ("sum by (job, lane) (sidestep_in_flight)", "by lane"),
    ] {
        assert_eq!(mistakes(expression, &known), [mistake]);
    }
    assert!(mistakes(r#"sum by (job) (sidestep_in_flight{job="x",backend=~".*"})"#, &known).is_empty());
}

#[test]
fn the_dashboard_imports_as_it_is() {
    let dashboard: Value = serde_json::from_str(&shipped("grafana/sidestep.json")).unwrap();
    let mut sources = Vec::new();
    strings(&dashboard, "uid", &mut sources);
    sources.retain(|uid| *uid != "sidestep");
    assert!(sources.len() > 20 && sources.iter().all(|uid| *uid == "${datasource}"), "{sources:?}");
    let panels = dashboard["panels"].as_array().unwrap();
    let numbers: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len(), panels.len(), "each panel has a number of its own");
}
