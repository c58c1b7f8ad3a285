//! Names shards, and says in which region they are made.

use shared::EdgeId;

/// The name of a shard. Whoever reads its batches takes it for an edge of its own, and accepts them
/// from the edge that it is named after. `None` when this makes no edge id.
#[must_use]
pub fn shard_name(name: &str, colo: &str, number: u32) -> Option<EdgeId> {
    let colo: String = colo.chars().filter(char::is_ascii_alphanumeric).take(3).collect();
    let colo = if colo.is_empty() { "any".to_owned() } else { colo };
    format!("{name}--{colo}-{number}").parse().ok()
}

/// The region in which a shard is to be made, so that no ocean lies between it and those that it
/// serves: by the continent and the longitude (whole degrees) of its first request.
/// <https://developers.cloudflare.com/durable-objects/reference/data-location/>
#[must_use]
pub fn location_hint(continent: &str, longitude: Option<i32>) -> Option<&'static str> {
    let east_of = |degrees: i32| longitude.is_some_and(|longitude| longitude > degrees);
    Some(match continent {
        "NA" if longitude.is_some() && !east_of(-100) => "wnam",
        "NA" => "enam",
        "SA" => "sam",
        "EU" if east_of(15) => "eeur",
        "EU" => "weur",
        "AS" if longitude.is_some() && !east_of(60) => "me",
        "AS" => "apac",
        "OC" => "oc",
        "AF" => "afr",
        _ => return None,
    })
}

/// A longitude in whole degrees, without its fraction: reading that would take ten kilobytes of
/// tables.
#[must_use]
pub fn whole_degrees(text: &str) -> Option<i32> {
    text.split('.').next().unwrap_or_default().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::settings::SHARDS_MAX;

    #[test]
    fn shards_are_edges_of_their_own() {
        let name = |name, colo, number| shard_name(name, colo, number).map(|id| id.to_string());
        assert_eq!(name("w", "FRA", 3).as_deref(), Some("w--FRA-3"));
        assert_eq!(name("w", "", 0).as_deref(), Some("w--any-0"));
        assert_eq!(name("w", "a/b%c", 0).as_deref(), Some("w--abc-0"));
        assert_eq!(name("12345678", "FRA", SHARDS_MAX - 1).as_deref(), Some("12345678--FRA-99"));
    }

    #[test]
    fn a_fraction_of_a_degree_is_left_out() {
        for (text, degrees) in
            [("-122.41940", Some(-122)), ("8", Some(8)), ("-0.5", Some(0)), ("", None), ("x", None)]
        {
            assert_eq!(whole_degrees(text), degrees, "{text}");
        }
    }

    #[test]
    fn no_shard_is_an_ocean_away() {
        for (continent, longitude, region) in [
            ("NA", Some(-122), Some("wnam")),
            ("NA", Some(-74), Some("enam")),
            ("NA", None, Some("enam")),
            ("EU", Some(8), Some("weur")),
            ("EU", Some(30), Some("eeur")),
            ("AS", Some(51), Some("me")),
            ("AS", Some(139), Some("apac")),
            ("T1", None, None),
            ("", None, None),
        ] {
            assert_eq!(location_hint(continent, longitude), region, "{continent} {longitude:?}");
        }
    }
}
