//! Countries as people and logs write them. Absent from Wasm: an edge is told two letters, and the
//! table of names would be a part of what a Worker may have.

use crate::event::Country;

/// Words that say that a country is not known: those for nothing, and what Cloudflare and MaxMind
/// say of Tor, of anonymous proxies and of satellites.
const UNKNOWN: [&str; 13] =
    ["", "-", "zz", "xx", "t1", "a1", "a2", "o1", "unknown", "null", "none", "n/a", "(not set)"];

impl Country {
    /// Reads a country as people and logs write it, in capital letters or not: a code of ISO 3166-1
    /// in two letters (`US`), three (`USA`) or three digits (`840`), its name in English (`United
    /// States`, `South Korea`), or one of its usual short ones (`UK`, `UAE`, `U.S.`). `ZZ`,
    /// `unknown` and words for nothing are [`Country::UNKNOWN`]. `None` when it is none of these: a
    /// part of a country (`US-CA`), a place in one, or two letters that no country has.
    #[must_use]
    pub fn from_any(text: &str) -> Option<Self> {
        let text = text.trim();
        if UNKNOWN.iter().any(|word| text.eq_ignore_ascii_case(word)) {
            return Some(Self::UNKNOWN);
        }
        // `!US` is not `US`, and `AR-G` is a province and not `ARG`.
        if !text.chars().all(is_of_names) || is_part(text) {
            return None;
        }
        // A spreadsheet may have removed leading zeros from a number.
        let padded;
        let text = match text.parse::<u16>() {
            Ok(number) if text.len() < 3 => {
                padded = format!("{number:03}");
                &padded
            }
            _ => text,
        };
        if text.len() == 2 {
            let code = Self::lenient(text);
            // Kosovo's code is the EU's, not ISO's.
            let is_known = celes::Country::from_alpha2(code.to_string()).is_ok();
            return (is_known || code.bytes() == *b"XK").then_some(code);
        }
        let letters = plain(text);
        // In a code there may be dots (`U.S.A.`), and nothing else: `US-` is none.
        let is_of_codes = |c: char| c.is_alphanumeric() || c.is_whitespace() || c == '.';
        if letters.chars().nth(3).is_none() && !text.chars().all(is_of_codes) {
            return None;
        }
        if let Some(found) = named(&letters) {
            return Some(found);
        }
        // Lists put the style behind the name: `Korea, Republic of`, `Korea (Republic of)`.
        let (name, what) = text.split_once([',', '('])?;
        let is_style = STYLES.contains(&plain(what).as_str());
        let short = is_style.then(|| named(&plain(name))).flatten();
        named(&plain(&format!("{what} {name}"))).or(short)
    }
}

/// Whether a character may stand in the name of a country, as lists and programs write it.
fn is_of_names(c: char) -> bool {
    c.is_alphanumeric() || c.is_whitespace() || ".,&'\u{2019}()[]/_-".contains(c)
}

/// Whether a text has the form of a part of a country, ISO 3166-2: `US-CA`.
fn is_part(text: &str) -> bool {
    let Some((country, part)) = text.split_once('-') else { return false };
    country.len() == 2
        && country.bytes().all(|byte| byte.is_ascii_alphabetic())
        && (1..=3).contains(&part.len())
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The letters and digits of a name: lower-case, without marks.
fn plain(text: &str) -> String {
    let text = text.replace('&', "and");
    let letters = text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase);
    letters.map(without_mark).collect()
}

/// The country of such letters and digits.
fn named(plain: &str) -> Option<Country> {
    match OTHER_NAMES.iter().find(|(other, _)| *other == plain) {
        Some((_, code)) => code.parse().ok(),
        None => plain.parse::<celes::Country>().ok()?.alpha2.parse().ok(),
    }
}

/// Names of countries that `celes` lacks, in lower-case letters alone.
const OTHER_NAMES: [(&str, &str); 37] = [
    ("caribbeannetherlands", "BQ"),
    ("heardandmcdonaldislands", "HM"),
    ("southgeorgiaandsouthsandwichislands", "GS"),
    ("usoutlyingislands", "UM"),
    ("stpierreandmiquelon", "PM"),
    ("pitcairnislands", "PN"),
    ("slovakrepublic", "SK"),
    ("laopdr", "LA"),
    ("republicofireland", "IE"),
    ("saintmaarten", "SX"),
    ("taiwanrepublicofchina", "TW"),
    ("turkiye", "TR"),
    ("uae", "AE"),
    ("northmacedonia", "MK"),
    ("easttimor", "TL"),
    ("drcongo", "CD"),
    ("drccongo", "CD"),
    ("congokinshasa", "CD"),
    ("kinshasacongo", "CD"),
    ("congobrazzaville", "CG"),
    ("republicofthecongo", "CG"),
    ("macaosarchina", "MO"),
    ("hongkongsar", "HK"),
    ("cocoskeelingislands", "CC"),
    ("stkittsandnevis", "KN"),
    ("stvincentandgrenadines", "VC"),
    ("stvincentandthegrenadines", "VC"),
    ("palestinianterritories", "PS"),
    ("peoplesrepublicofchina", "CN"),
    ("uk", "GB"),
    ("theunitedstates", "US"),
    ("unitedstatesvirginislands", "VI"),
    ("libyanarabjamahiriya", "LY"),
    ("republicofsouthafrica", "ZA"),
    ("kingdomofsaudiarabia", "SA"),
    ("democraticrepublicofthecongo", "CD"),
    ("hongkongsarchina", "HK"),
];
/// What may follow a country's name and adds nothing. Anything else may be a place in it, or a part
/// of it.
const STYLES: [&str; 14] = [
    "the",
    "republicof",
    "stateof",
    "stateofthe",
    "provinceofchina",
    "islamicrepublicof",
    "unitedrepublicof",
    "federatedstatesof",
    "plurinationalstateof",
    "bolivarianrepublicof",
    "theformeryugoslavrepublicof",
    "burma",
    "frenchpart",
    "dutchpart",
];

/// The letter without its mark: `c` for the `ç` of Curaçao.
fn without_mark(letter: char) -> char {
    const MARKED: [(&str, char); 7] = [
        ("àáâãäå", 'a'),
        ("ç", 'c'),
        ("èéêë", 'e'),
        ("ìíîï", 'i'),
        ("ñ", 'n'),
        ("òóôõö", 'o'),
        ("ùúûü", 'u'),
    ];
    let found = MARKED.iter().find(|(letters, _)| letters.contains(letter));
    found.map_or(letter, |(_, plain)| *plain)
}

#[cfg(test)]
mod tests {
    use celes::LookupTable as _;

    use super::*;

    #[test]
    fn a_country_is_read_by_its_codes_and_names_in_any_case() {
        for (text, code) in [
            ("US", "US"),
            (" us ", "US"),
            ("USA", "US"),
            ("usa", "US"),
            ("840", "US"),
            ("United States", "US"),
            ("U.S.", "US"),
            ("U. S. A.", "US"),
            ("united states of america", "US"),
            ("germany", "DE"),
            ("UK", "GB"),
            ("South Korea", "KR"),
            ("Korea, Republic of", "KR"),
            ("Russia", "RU"),
            ("Guinea-Bissau", "GW"),
            ("Congo - Kinshasa", "CD"),
            ("Côte d\u{2019}Ivoire", "CI"),
            ("Cote d'Ivoire", "CI"),
            ("Bosnia & Herzegovina", "BA"),
            ("XK", "XK"),
            ("4", "AF"),
            ("ZZ", "ZZ"),
            ("xx", "ZZ"),
            ("Unknown", "ZZ"),
            ("", "ZZ"),
        ] {
            assert_eq!(Country::from_any(text), code.parse().ok(), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_country_is_not_taken_for_one() {
        for text in [
            "QQ",
            "EU",
            "QQQ",
            "999",
            "Germania",
            "US-CA",
            "AR-G",
            "AR- G",
            "US-",
            "-CA",
            "MA-LI",
            "!US",
            "=US",
            "US;CA",
            "US|CA",
            "*",
            "?",
            "Georgia, USA",
            "Georgia (US)",
            "\u{1f1fa}\u{1f1f8}",
        ] {
            assert_eq!(Country::from_any(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_other_name_is_a_country_that_has_a_code() {
        for (name, code) in OTHER_NAMES {
            assert_eq!(Country::from_any(name), code.parse().ok(), "{name}");
            assert_eq!(plain(name), name);
        }
    }

    #[test]
    fn each_country_of_the_table_is_read_by_all_that_the_table_says_of_it() {
        let mut wrong = Vec::new();
        for country in celes::Country::get_countries() {
            let wanted = country.alpha2.parse().ok();
            let names = [country.alpha2, country.alpha3, country.code, country.long_name];
            let texts = names.iter().chain(country.aliases.iter()).copied();
            // The table calls American Samoa so too.
            let texts = texts.filter(|text| *text != "Samoa" || country.alpha2 == "WS");
            wrong.extend(texts.filter(|text| Country::from_any(text) != wanted));
        }
        assert_eq!(wrong, [""; 0]);
    }

    #[test]
    fn the_names_of_cldr_are_read() {
        let names = "\
            Antigua & Barbuda|Åland Islands|Falkland Islands|Cabo Verde|Caribbean Netherlands|\
            Heard & McDonald Islands|São Tomé & Príncipe|Svalbard & Jan Mayen|\
            Turks & Caicos Islands|Wallis & Futuna|South Georgia & South Sandwich Islands|\
            U.S. Outlying Islands|British Virgin Islands|U.S. Virgin Islands|St. Martin|\
            St. Barthélemy|St. Pierre & Miquelon|St. Helena|French Southern Territories|\
            Pitcairn Islands|Réunion|Sint Maarten|Vatican|England|Czechia|Ireland|Curaçao|\
            Congo - Brazzaville|Côte d’Ivoire|North Korea|Micronesia|Northern Mariana Islands|\
            Isle of Man|Guernsey|Jersey|Trinidad & Tobago|Bouvet Island|\
            British Indian Ocean Territory|Christmas Island|Norfolk Island|Western Sahara|Gambia|\
            Bahamas|Philippines|St. Vincent & Grenadines|Central African Republic|\
            Dominican Republic|Comoros|Sudan|Netherlands|Cayman Islands|Marshall Islands|\
            Solomon Islands|Cook Islands|Faroe Islands|Macedonia|Niger|Oman|United Arab Emirates|\
            Papua New Guinea|Equatorial Guinea|French Guiana|French Polynesia|New Caledonia|\
            Brunei|Timor-Leste|Syria|Slovak Republic|Russian Federation|Kyrgyzstan|Lao PDR|\
            Viet Nam|Republic of Korea|Burma|Myanmar|Eswatini|America|Hong Kong S.A.R.|\
            Republic of Ireland|Great Britain|Serbia|Montenegro|South Sudan|Greenland|Monaco|\
            Mayotte";
        let wrong: Vec<_> = names.split('|').filter(|n| Country::from_any(n).is_none()).collect();
        assert_eq!(wrong, [""; 0]);
    }
}
