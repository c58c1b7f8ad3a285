//! The list of metrics in `docs/metrics.md` is what a running process has, and the dashboard asks
//! for nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::process::{KEY, Server, run};

/// A metric's kind, unit and labels.
#[derive(Debug, PartialEq, Eq, Clone, Default)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    unit: String,
}

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the page's tables.
fn documented() -> BTreeMap<String, Metric> {
    let page = repository("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `countersign_"));
    let mut all = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = format!("countersign_{}", cells[0].trim_end_matches('`'));
        let labels = cells[2].split(',').map(|label| label.trim().to_owned());
        let metric = Metric {
            kind: cells[1].to_owned(),
            labels: labels.filter(|label| !label.is_empty()).collect(),
            unit: cells[3].to_owned(),
        };
        assert!(!cells[4].is_empty(), "{name} has no meaning");
        assert_eq!(all.insert(name.clone(), metric), None, "{name} is there twice");
    }
    all
}

/// The metrics in an OpenMetrics text, by the name of their samples; a counter's `_total` is part
/// of the name.
fn registered(text: &str) -> BTreeMap<String, Metric> {
    let mut all: BTreeMap<String, Metric> = BTreeMap::new();
    let mut units = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["#", "TYPE", name, kind] => {
                let name =
                    if *kind == "counter" { format!("{name}_total") } else { (*name).into() };
                all.insert(name, Metric { kind: (*kind).to_owned(), ..Metric::default() });
            }
            ["#", "UNIT", name, unit] => drop(units.insert((*name).to_owned(), *unit)),
            _ => {}
        }
    }
    for (name, unit) in units {
        let name = if all.contains_key(&name) { name } else { format!("{name}_total") };
        all.get_mut(&name).unwrap_or_else(|| panic!("{name} has no type")).unit = unit.to_owned();
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = match line.split_once('{') {
            Some((name, rest)) => (name, rest.split_once('}').unwrap().0),
            None => (line.split(' ').next().unwrap(), ""),
        };
        let parts = ["", "_bucket", "_sum", "_count"].into_iter();
        let base = parts.filter_map(|part| name.strip_suffix(part)).find(|n| all.contains_key(*n));
        let base = base.unwrap_or_else(|| panic!("{name} has no type")).to_owned();
        let names = labels.split("\",").filter_map(|label| label.split_once('='));
        let names = names.map(|(name, _)| name.to_owned()).filter(|name| name != "le");
        all.get_mut(&base).unwrap().labels.extend(names);
    }
    all
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    // Requests that make a sample of every metric with labels.
    let ad = server.serve().await;
    for url in [ad["click_url"].as_str().unwrap(), &format!("{}/v1/c/bad", server.edge)] {
        server.http.get(url).send().await.unwrap();
    }
    let log = dir.path().join("a.csv");
    std::fs::write(&log, "ad_id,timestamp\na,1700000050\n").unwrap();
    let (code, said, err) = run(server.import().arg(&log));
    assert_eq!(code, Some(0), "{said}{err}");
    let path = "/v1/ads/a/aggregated_count?from=1700000040&to=1700000100";
    server.until(path, |answer| answer["count"] == 1).await;
    let documented = documented();
    let found = async || {
        let request = server.http.get(format!("{}/metrics", server.api)).bearer_auth(KEY);
        registered(&request.send().await.unwrap().text().await.unwrap())
    };
    // Gauges of partitions appear with their first checkpoint, or the archive's first turn.
    let mut registered = found().await;
    for _ in 0..600 {
        if registered.values().filter(|metric| metric.labels.contains("partition")).count() >= 4 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        registered = found().await;
    }
    let names = |map: &BTreeMap<String, Metric>| map.keys().cloned().collect::<BTreeSet<_>>();
    let (there, listed) = (names(&registered), names(&documented));
    let missing: Vec<_> = there.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&there).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
    assert!(gone.is_empty(), "in docs/metrics.md, but no process has it: {gone:?}");
    for (name, metric) in &registered {
        assert_eq!(
            metric, &documented[name],
            "{name}: left as it is, right as docs/metrics.md says"
        );
    }
}

#[test]
fn the_dashboard_asks_for_documented_metrics_only_and_for_all_of_them() {
    let dashboard: Value =
        serde_json::from_str(&repository("deploy/grafana/countersign.json")).unwrap();
    let mut asked = Vec::new();
    collect("expr", &dashboard, &mut asked);
    assert!(asked.len() > 20, "only {} expressions", asked.len());
    collect("query", &dashboard["templating"], &mut asked);
    let documented = documented();
    let mut used = BTreeSet::new();
    for expression in &asked {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("countersign_")) {
            let histogram =
                |name: &str| documented.get(name).is_some_and(|m| m.kind == "histogram");
            let parts = ["_bucket", "_sum", "_count"].into_iter();
            let of = parts.filter_map(|part| word.strip_suffix(part)).find(|name| histogram(name));
            let name = of.unwrap_or(word);
            let known = documented.get(name).filter(|m| (m.kind == "histogram") == of.is_some());
            assert!(known.is_some(), "{word} in {expression:?} is not in docs/metrics.md");
            used.insert(name.to_owned());
        }
    }
    let unused: Vec<_> = documented.keys().filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "no panel shows {unused:?}");
}

/// Texts under this key, at any depth.
fn collect(key: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value.as_str() {
                    Some(text) if name == key => found.push(text.to_owned()),
                    _ => collect(key, value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(key, value, found)),
        _ => {}
    }
}

#[test]
fn the_alert_rules_ask_for_documented_metrics_only() {
    let rules = repository("deploy/prometheus/countersign.rules.yaml");
    let lines = rules.lines().map(str::trim);
    let expressions: Vec<&str> = lines.filter_map(|line| line.strip_prefix("expr: ")).collect();
    let alerts = rules.matches("- alert: ").count();
    assert!(alerts > 0 && expressions.len() == alerts, "{expressions:?}");
    let documented = documented();
    for expression in expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let ours: Vec<_> = words.filter(|word| word.starts_with("countersign_")).collect();
        assert!(!ours.is_empty(), "{expression:?} asks for nothing of ours");
        for word in ours {
            assert!(documented.contains_key(word), "{word} is not in docs/metrics.md");
        }
    }
}
