#![allow(clippy::unwrap_used)]

use shared::random::Seeded;

use super::*;

const GOOD: &str = r#"
[lifetimes]
impression_s = 600
click_s = 7200

[[ads]]
id = "shoes"
campaign = "spring"
advertiser = "acme"
image = "https://cdn.example/shoes.png"
width = 300
height = 250
url = "https://acme.example/shoes?from=ad"
weight = 3
price_micros = 2500
currency = "EUR"

[[ads]]
id = "hats"
campaign = "spring"
advertiser = "acme"
html = "<b>Hats</b>"
width = 728
height = 90
url = "http://acme.example/hats"

[[placements]]
id = "top"
publisher = "news"
ads = ["shoes", "hats"]

[[placements]]
id = "empty"
publisher = "news"
"#;

fn name<T: Named>(text: &str) -> Name<'_, T> {
    Name::new(text).unwrap()
}

#[test]
fn reads_and_chooses_by_weight() {
    let catalogue = Catalogue::from_toml(GOOD).unwrap();
    assert_eq!((catalogue.impression_life_s(), catalogue.click_life_s()), (600, 7200));
    assert_eq!(catalogue.ads()[0].price.micros, 2500);
    let mut random = Seeded::new(1);
    let top = catalogue.placement(name("top")).unwrap();
    let chosen = (0..4_000).map(|_| catalogue.choose(top, &mut random).unwrap().id.as_str());
    let shoes = chosen.filter(|ad| *ad == "shoes").count();
    assert!((2_850..3_150).contains(&shoes), "{shoes} of 4000 with a weight of 3 in 4");
    let empty = catalogue.placement(name("empty")).unwrap();
    assert_eq!(catalogue.choose(empty, &mut random), None);
    assert!(catalogue.placement(name("none")).is_none());
}

#[test]
fn json_says_the_same() {
    let json = r#"{"ads":[{"id":"a","campaign":"c","advertiser":"v","html":"x","width":1,
        "height":1,"url":"https://e.example/"}],"placements":[{"id":"p","publisher":"q","ads":["a"]}]}"#;
    let catalogue = Catalogue::from_json(json).unwrap();
    assert_eq!(catalogue.ads()[0].price, Money::ZERO);
    assert!(Catalogue::from_json("{\"adds\":[]}").is_err());
}

#[test]
fn what_is_stored_otherwise_is_noted_and_errors_past_the_twentieth_are_counted() {
    let text = GOOD.replacen("http://acme.example/hats", "http://acme.example/hats?q={gclid}", 1);
    let catalogue = Catalogue::from_toml(&text).unwrap();
    assert_eq!(catalogue.ads()[1].url, "http://acme.example/hats?q=%7Bgclid%7D");
    let [note] = catalogue.notes() else { panic!("{:?}", catalogue.notes()) };
    assert!(
        note.starts_with("ads[1] (\"hats\"): url: ") && note.ends_with("%7Bgclid%7D"),
        "{note}"
    );
    assert!(Catalogue::from_toml(GOOD).unwrap().notes().is_empty());
    let ad =
        r#"{"id":"N","campaign":"c","advertiser":"v","html":"","width":1,"height":1,"url":""}"#;
    let ads: Vec<_> = (0..15).map(|n: u32| ad.replace('N', &n.to_string())).collect();
    let error = Catalogue::from_json(&format!("{{\"ads\":[{}]}}", ads.join(","))).unwrap_err();
    assert_eq!((error.0.len(), error.0[20].as_str()), (21, "and 10 more"));
}

/// Each change of the good catalogue, and the place and the words that its error has.
#[test]
fn errors_name_the_place() {
    let cases = [
        (
            "ads = [\"shoes\", \"hats\"]",
            "ads = [\"shoes\", \"cats\"]",
            "placements[0] (\"top\"): there is no ad \"cats\"",
        ),
        (
            "ads = [\"shoes\", \"hats\"]",
            "ads = [\"hats\", \"hats\"]",
            "placements[0] (\"top\"): the ad \"hats\" is listed twice",
        ),
        (
            "url = \"http://acme.example/hats\"",
            "url = \"javascript:alert(1)\"",
            "ads[1] (\"hats\"): url: the landing URL \"javascript:alert(1)\": no link leads to javascript:",
        ),
        (
            "https://cdn.example/shoes.png",
            "ftp://cdn.example/shoes.png",
            "ads[0] (\"shoes\"): image: the image URL \"ftp://cdn.example/shoes.png\" starts with ftp:",
        ),
        ("id = \"hats\"", "id = \"shoes\"", "ads[1] (\"shoes\"): this id is there twice"),
        ("id = \"empty\"", "id = \"top\"", "placements[1] (\"top\"): this id is there twice"),
        (
            "id = \"hats\"",
            "id = \"hats \"",
            "ads[1] (\"hats \"): id: a name neither begins nor ends",
        ),
        ("weight = 3", "weight = 0", "ads[0] (\"shoes\"): weight is 0"),
        ("width = 300", "width = 0", "ads[0] (\"shoes\"): width is 0"),
        ("currency = \"EUR\"", "", "ads[0] (\"shoes\"): price_micros needs a currency"),
        ("price_micros = 2500", "price_micros = -1", "ads[0] (\"shoes\"): price_micros is -1"),
        ("html = \"<b>Hats</b>\"", "", "ads[1] (\"hats\"): an ad has either an image or html"),
        ("click_s = 7200", "click_s = 86401", "lifetimes: click_s is 86401"),
        ("weight = 3", "wait = 3", "unknown field `wait`"),
        ("[lifetimes]", "[lifetime]", "unknown field `lifetime`"),
    ];
    for (from, to, expected) in cases {
        assert!(GOOD.contains(from), "{from}");
        let error = Catalogue::from_toml(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(expected), "{from} -> {to}: {error}");
    }
    // All places at once, and those too that are of another type, or twice with another mistake.
    let mut many = GOOD.to_owned();
    for (from, to) in [
        ("weight = 3", "weight = -1"),
        ("http://acme.example/hats", "javascript:x"),
        ("[\"shoes\", \"hats\"]", "[\"shoes\", \"cats\"]"),
        ("click_s = 7200", "click_s = \"7200\""),
    ] {
        assert!(many.contains(from), "{from}");
        many = many.replacen(from, to, 1);
    }
    many.push_str(
        "[[placements]]\nid = \"top\"\n[[placements]]\nid = \"top\"\npublisher = \"\"\n[misc]\n",
    );
    many.push_str("[[ads]]\nid = \"hats\"\ncampaign = \"\"\nadvertiser = \"a\"\nwidth = 1\nheight = 1\nurl = \"\"\n");
    let found = Catalogue::from_toml(&many).unwrap_err().0;
    for expected in [
        "lifetimes: invalid type: string \"7200\", expected u32",
        "ads[0] (\"shoes\"): invalid value: integer `-1`, expected u32",
        "ads[1] (\"hats\"): url: the landing URL \"javascript:x\"",
        "ads[2] (\"hats\"): this id is there twice",
        "ads[2] (\"hats\"): an ad has either an image or html",
        "placements[0] (\"top\"): there is no ad \"cats\"",
        "placements[2] (\"top\"): missing field `publisher`",
        "placements[3] (\"top\"): this id is there twice",
        "placements[3] (\"top\"): publisher: a name has",
        "misc: nothing is called so here",
    ] {
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected}: {found:#?}");
    }
    assert!(!found.iter().any(|line| line.contains("no ad \"shoes\"")), "{found:#?}");
    // No TOML: its line is shown.
    let error = Catalogue::from_toml(&GOOD.replace("weight = 3", "weight = ")).unwrap_err();
    assert!(error.to_string().contains("TOML parse error at line"), "{error}");
    let twice = GOOD.replace("weight = 3", "weight = 0").replace("\"hats\"]", "\"cats\"]");
    assert_eq!(Catalogue::from_toml(&twice).unwrap_err().0.len(), 2);
}
