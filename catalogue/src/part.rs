//! What the centre sends to edges of a catalogue: with addresses in their stored form ([`stored`]), and to
//! each issuer only what it may show ([`part`]). Both work on the JSON as the operator has written it.

use std::collections::HashSet;

use serde_json::Value;
use shared::keys::{IssuerLimits, PublicKey};
use shared::{Money, Name, Timestamp};

use super::landing::Schemes;

fn list<'a>(of: &'a mut Value, name: &str) -> Option<&'a mut Vec<Value>> {
    of.get_mut(name)?.as_array_mut()
}

/// The catalogue with all addresses in their stored form. A wrong address stays as it is: the centre's own
/// edge, which reads the same catalogue, reports it.
#[must_use]
pub fn stored(mut catalogue: Value) -> Value {
    let schemes = serde_json::from_value(catalogue["links"]["schemes"].clone());
    let schemes = Schemes::allowed(schemes.unwrap_or_default()).0;
    let ads = list(&mut catalogue, "ads").into_iter().flatten();
    for ad in ads.filter_map(Value::as_object_mut) {
        for (name, schemes) in [("url", &schemes), ("image", &Schemes::default())] {
            let Some(address) = ad.get_mut(name) else { continue };
            let stored = address.as_str().map(|text| super::stored_as(text, schemes));
            if let Some(Ok(stored)) = stored {
                *address = stored.into();
            }
        }
    }
    catalogue
}

/// The part of a catalogue that the issuer with these keys may show at `now`. An issuer with a key without
/// limits gets all of it. Others do not get ads and placements of which it cannot be read whose they are, or
/// what they cost; the centre's own edge reports what is wrong with these.
#[must_use]
pub fn part(mut catalogue: Value, keys: &[&PublicKey], now: Timestamp) -> Value {
    let keys = || keys.iter().filter(|key| key.signs_at(now));
    if keys().any(|key| key.limits() == IssuerLimits::default()) {
        return catalogue;
    }
    let sells = |ad: &Value| {
        let micros = ad["price_micros"].as_i64().unwrap_or(0);
        let price = match ad["currency"].as_str().map(str::parse) {
            Some(currency) => Money { micros, currency: currency.ok()? },
            None => Money { micros, ..Money::ZERO },
        };
        let advertiser = Name::new(ad["advertiser"].as_str()?).ok()?;
        Some(keys().any(|key| key.sells(advertiser, price)))
    };
    let shows = |placement: &Value| {
        let publisher = Name::new(placement["publisher"].as_str()?).ok()?;
        Some(keys().any(|key| key.signs_for(publisher)))
    };
    let mut shown = HashSet::new();
    if let Some(ads) = list(&mut catalogue, "ads") {
        ads.retain(|ad| sells(ad) == Some(true));
        shown.extend(ads.iter().filter_map(|ad| ad["id"].as_str().map(str::to_owned)));
    }
    if let Some(placements) = list(&mut catalogue, "placements") {
        placements.retain(|placement| shows(placement) == Some(true));
        for ads in placements.iter_mut().filter_map(|placement| list(placement, "ads")) {
            ads.retain(|ad| ad.as_str().is_some_and(|ad| shown.contains(ad)));
        }
        // An ad that is in none of the issuer's placements is not sent: the issuer could not show it.
        let placed =
            placements.iter().filter_map(|placement| placement["ads"].as_array()).flatten();
        shown = placed.filter_map(|ad| ad.as_str().map(str::to_owned)).collect();
    }
    if let Some(ads) = list(&mut catalogue, "ads") {
        ads.retain(|ad| ad["id"].as_str().is_some_and(|ad| shown.contains(ad)));
    }
    catalogue
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use shared::keys::KeyStore;
    use shared::random::Seeded;

    use super::*;

    fn catalogue() -> Value {
        let ad = |id: &str, advertiser: &str, micros: i64| {
            json!({ "id": id, "campaign": "c", "advertiser": advertiser, "price_micros": micros,
                    "currency": "EUR", "html": "x", "width": 1, "height": 1, "url": "https://a/" })
        };
        json!({
            "lifetimes": { "click_s": 7 },
            "ads": [ad("mine", "acme", 100), ad("dear", "acme", 101), ad("hers", "other", 1),
                    ad("elsewhere", "acme", 1)],
            "placements": [
                { "id": "top", "publisher": "press", "ads": ["mine", "dear", "hers"] },
                { "id": "far", "publisher": "times", "ads": ["mine", "elsewhere"] },
            ],
        })
    }

    fn keys(limits: IssuerLimits) -> (KeyStore, Vec<PublicKey>) {
        let mut random = Seeded::new(1);
        let mut store = KeyStore::generate(&mut random);
        store.create_limited("mine".parse().unwrap(), limits, Timestamp(1), &mut random).unwrap();
        let all = store.issuers.iter().map(|key| key.public.clone()).collect();
        (store, all)
    }

    fn limits() -> IssuerLimits {
        IssuerLimits {
            publishers: vec!["press".parse().unwrap()],
            advertisers: vec!["acme".parse().unwrap()],
            price_max: Some(Money { micros: 100, currency: "EUR".parse().unwrap() }),
        }
    }

    #[test]
    fn an_issuer_is_told_of_what_it_may_sign_for() {
        let (_, all) = keys(limits());
        let told = part(catalogue(), &all.iter().collect::<Vec<_>>(), Timestamp(1));
        let ids = |list: &Value| -> Vec<String> {
            let list = list.as_array().unwrap().iter();
            list.map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(
            (ids(&told["ads"]), ids(&told["placements"])),
            (vec!["mine".into()], vec!["top".into()])
        );
        assert_eq!(told["placements"][0]["ads"], json!(["mine"]));
        assert_eq!(told["lifetimes"], json!({ "click_s": 7 }));
        crate::Catalogue::from_json(&told.to_string()).unwrap();
    }

    #[test]
    fn edges_are_told_addresses_as_they_are_kept() {
        let mut written = catalogue();
        written["ads"][0]["url"] = json!("https://bücher.example/a b");
        written["ads"][1]["url"] = json!("no address");
        let told = stored(written);
        assert_eq!(told["ads"][0]["url"], "https://xn--bcher-kva.example/a%20b");
        assert_eq!(told["ads"][1]["url"], "no address");
        assert_eq!(stored(catalogue()), catalogue());
        // JSON that is no catalogue is passed on unchanged.
        let (_, all) = keys(limits());
        for wrong in [json!({}), json!([1]), json!({"ads": [1], "placements": [[], {"ads": 1}]})] {
            assert_eq!(stored(wrong.clone()), wrong);
            let _ = part(wrong, &all.iter().collect::<Vec<_>>(), Timestamp(1));
        }
    }

    #[test]
    fn an_issuer_without_limits_is_told_all_and_one_without_keys_nothing() {
        let (_, all) = keys(IssuerLimits::default());
        assert_eq!(part(catalogue(), &all.iter().collect::<Vec<_>>(), Timestamp(1)), catalogue());
        let revoked = PublicKey { revoked: true, ..all[0].clone() };
        let retired = PublicKey { retired_at: Some(Timestamp(5)), ..all[0].clone() };
        for (key, at) in [(&revoked, 1), (&retired, 5), (&all[0], 0)] {
            let told = part(catalogue(), &[key], Timestamp(at));
            assert_eq!((&told["ads"], &told["placements"]), (&json!([]), &json!([])));
        }
        assert_eq!(part(catalogue(), &[&retired], Timestamp(4)), catalogue());
    }

    #[test]
    fn what_others_may_sign_for_is_not_told() {
        let (store, all) = keys(limits());
        let (mine, hers) = ("mine".parse().unwrap(), "hers".parse().unwrap());
        assert_eq!(all[0].told_to(mine).limits(), limits());
        assert_eq!(all[0].told_to(hers).limits(), IssuerLimits::default());
        assert_eq!(all[0].told_to(hers).public, all[0].public);
        assert_eq!(store.for_edge(mine).unwrap().public[0].limits(), limits());
    }
}
