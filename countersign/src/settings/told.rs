//! Hands the settings that a Worker has too to [`edge::settings`]: the edge decides which values
//! are good and what is said of others, so that both kinds of edge agree.

use std::collections::BTreeMap;

use edge::settings::{NUMBERS, Reader};
use edge::worker::settings::OWN;
use figment::error::Kind;
use figment::value::{Dict, Value};

use super::Edge;
use crate::failure::Failure;

/// Each setting's name in capitals, with its path (`edge.limits.clicks_per_s`) and its value as
/// text.
type Said = BTreeMap<String, (String, String)>;

impl Edge {
    /// The settings as the edge reads them.
    ///
    /// # Errors
    /// Names each that cannot be used, and says why.
    pub(crate) fn told(&self) -> Result<edge::settings::Settings, Failure> {
        let mut said = Said::new();
        let all = Value::serialize(self).map_err(|error| Failure::usage(error.to_string()))?;
        say("edge", &all.into_dict().unwrap_or_default(), &mut said);
        // An empty public URL is as good as none: the edge's own address is taken.
        said.retain(|name, (_, text)| name != "PUBLIC_URL" || !text.is_empty());
        let get = |name: &str| said.get(name).map(|(_, text)| text.clone());
        let mut reader = Reader::new(&get);
        let told = edge::settings::Settings::read(&mut reader);
        if reader.trouble.is_empty() {
            return Ok(told);
        }
        let wrong = reader.trouble.iter().map(|trouble| {
            let (name, why) = trouble.split_once(": ").unwrap_or((trouble, ""));
            let place = said.get(name).map_or(name, |(place, _)| place);
            format!("{place}: {why}")
        });
        Err(Failure::usage(wrong.collect::<Vec<_>>().join("; ")))
    }
}

fn say(place: &str, group: &Dict, said: &mut Said) {
    for (key, value) in group {
        let place = format!("{place}.{key}");
        match value {
            Value::Dict(_, group) => say(&place, group, said),
            other => drop(said.insert(key.to_uppercase(), (place, text(other)))),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Array(_, values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_u128().map(|number| number.to_string()).unwrap_or_default(),
    }
}

/// A number's default.
pub(super) fn default(name: &str) -> u64 {
    let found = NUMBERS.iter().find(|number| number.name == name);
    found.expect("the edge has a number of this name").default
}

/// A hint in brackets for a setting that only a Worker knows.
pub(super) fn elsewhere(kind: &Kind) -> Option<String> {
    let Kind::UnknownField(name, _) = kind else { return None };
    let name = name.to_uppercase();
    match name.as_str() {
        "BEACONS_DURABLE" => Some(" (it is edge.beacons: \"durable\" or \"queued\")".to_owned()),
        name if OWN.contains(&name) => Some(" (a Worker alone has it: docs/worker.md)".to_owned()),
        _ => None,
    }
}
