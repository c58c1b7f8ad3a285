//! The catalogue says which ads may be shown in which placements. It is read, checked as a whole, and then
//! never changed; a new catalogue replaces it.
//!
//! Pure, and for Wasm as well: the catalogue, where its links lead ([`landing`]), and what the centre sends
//! to edges elsewhere ([`Published`]). With the feature `native`: reading what an operator has written
//! ([`CatalogueFile`], [`stored_as`]), and the part of it that an issuer is sent ([`part`]).

#[cfg(feature = "native")]
mod file;
pub mod landing;
#[cfg(feature = "native")]
mod part;
mod published;
#[cfg(feature = "native")]
mod stored;
#[cfg(feature = "native")]
mod toml_errors;

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use shared::limits::TOKEN_LIFE_MS_MAX;
use shared::name::{Any, NameBuf, Named};
use shared::{
    AdName, AdvertiserName, CampaignName, Currency, Money, Name, PlacementId, PlacementName,
    PublisherName, Random,
};

#[cfg(feature = "native")]
pub use file::{CatalogueFile, CatalogueSource};
#[cfg(feature = "native")]
pub use part::{part, stored};
pub use published::Published;
#[cfg(feature = "native")]
pub use stored::stored_as;

use landing::{OR_SCHEMES, Schemes, check_web};

/// A Worker gets its catalogue from the centre, with addresses already in their stored form.
#[cfg(not(feature = "native"))]
fn stored_as(text: &str, schemes: &Schemes) -> Result<String, String> {
    landing::check(text, schemes).map(|()| text.to_owned())
}

/// The longest HTML creative, in bytes.
pub const HTML_BYTES_MAX: usize = 64 << 10;
/// The largest weight of an ad.
pub const WEIGHT_MAX: u32 = 1_000_000;
/// The largest width and height of a creative, in CSS pixels.
pub const PIXELS_MAX: u16 = 10_000;
/// Errors that one message lists.
const ERRORS_SHOWN_MAX: usize = 20;

/// A checked catalogue.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    ads: Vec<Ad>,
    placements: HashMap<PlacementId, Placement>,
    impression_life_s: u32,
    click_life_s: u32,
    schemes: Schemes,
    notes: Vec<String>,
}

/// An ad that can be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ad {
    /// Its name.
    pub id: AdName,
    /// Its campaign.
    pub campaign: CampaignName,
    /// Who pays for it.
    pub advertiser: AdvertiserName,
    /// What is shown.
    pub creative: Creative,
    /// In CSS pixels, 1 to [`PIXELS_MAX`].
    pub width: u16,
    /// In CSS pixels, 1 to [`PIXELS_MAX`].
    pub height: u16,
    /// The address to which a click leads. It fits into a token whatever its macros are replaced with.
    pub url: String,
    /// Whether parameters of the click's own query are added to the address.
    pub pass_query: bool,
    /// Its chance in proportion to the other ads of a placement, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// The price of an impression.
    pub price: Money,
}

/// What is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Creative {
    /// An image at this address.
    Image(String),
    /// This HTML.
    Html(String),
}

/// A place on a publisher's pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Its name.
    pub id: PlacementName,
    /// The publisher whose pages these are.
    pub publisher: PublisherName,
    /// The ads that may be shown: index in the catalogue, and the sum of the weights up to and including it.
    ads: Vec<(usize, u64)>,
}

/// What is wrong with a catalogue: a line for each wrong place in it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct CatalogueError(pub Vec<String>);

impl Catalogue {
    /// Reads the JSON form.
    ///
    /// # Errors
    /// [`CatalogueError`] names every place that is wrong.
    pub fn from_json(text: &str) -> Result<Self, CatalogueError> {
        let read = serde_json::from_str(text).map_err(|e| CatalogueError(vec![e.to_string()]));
        read.and_then(|file| check(file, Vec::new()))
    }

    /// Reads the TOML form.
    ///
    /// # Errors
    /// [`CatalogueError`] names every place that is wrong.
    #[cfg(feature = "native")]
    pub fn from_toml(text: &str) -> Result<Self, CatalogueError> {
        let read = toml::from_str(text).map_err(|error| toml_errors::collect(text, &error));
        read.and_then(|file| check(file, Vec::new()))
    }

    /// Notes on addresses that are stored in another form than they were written, one line each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The placement of that name.
    #[must_use]
    pub fn placement(&self, name: Name<'_, shared::name::Placement>) -> Option<&Placement> {
        self.placements.get(&name.id())
    }

    /// Draws one of the placement's ads, each with a chance in proportion to its weight; `None` when the
    /// placement has no ads.
    pub fn choose(&self, placement: &Placement, random: &mut dyn Random) -> Option<&Ad> {
        let (_, total) = placement.ads.last()?;
        let drawn = shared::random::below(random, *total);
        let at = placement.ads.partition_point(|(_, upto)| *upto <= drawn);
        placement.ads.get(at).and_then(|(ad, _)| self.ads.get(*ad))
    }

    /// As [`Catalogue::choose`], among those of the ads for which `may_show` is true; `None` when it is true
    /// for none.
    pub fn choose_among(
        &self,
        placement: &Placement,
        random: &mut dyn Random,
        may_show: impl Fn(&Ad) -> bool,
    ) -> Option<&Ad> {
        let ads: Vec<_> = self.ads_of(placement).filter(|ad| may_show(ad)).collect();
        let total = ads.iter().map(|ad| u64::from(ad.weight)).sum();
        if total == 0 {
            return None;
        }
        let mut drawn = shared::random::below(random, total);
        // Finds the ad in whose part of the total the number lies; there is one, for it is below the total.
        ads.into_iter().find(|ad| match drawn.checked_sub(u64::from(ad.weight)) {
            Some(left) => {
                drawn = left;
                false
            }
            None => true,
        })
    }

    /// The ads that the placement may show.
    pub fn ads_of(&self, placement: &Placement) -> impl Iterator<Item = &Ad> {
        placement.ads.iter().filter_map(|(ad, _)| self.ads.get(*ad))
    }

    /// All ads, in the order of the file.
    #[must_use]
    pub fn ads(&self) -> &[Ad] {
        &self.ads
    }

    /// All placements, in no particular order.
    pub fn placements(&self) -> impl Iterator<Item = &Placement> {
        self.placements.values()
    }

    /// How long after its token was issued an impression counts, in seconds.
    #[must_use]
    pub const fn impression_life_s(&self) -> u32 {
        self.impression_life_s
    }

    /// How long after its token was issued a click counts, in seconds.
    #[must_use]
    pub const fn click_life_s(&self) -> u32 {
        self.click_life_s
    }

    /// The schemes besides http and https that links may have.
    #[must_use]
    pub const fn schemes(&self) -> &Schemes {
        &self.schemes
    }
}

/// A catalogue as an operator writes it, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    lifetimes: Lifetimes,
    #[serde(default)]
    links: Links,
    #[serde(default)]
    ads: Vec<AdEntry>,
    #[serde(default)]
    placements: Vec<PlacementEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lifetimes {
    impression_s: u32,
    click_s: u32,
}

impl Default for Lifetimes {
    /// An ad that has not been rendered an hour after it was served never will be; but its page may stay
    /// open for a day.
    fn default() -> Self {
        Self { impression_s: 3_600, click_s: 86_400 }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Links {
    schemes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdEntry {
    #[serde(skip)]
    index: Option<usize>,
    id: String,
    campaign: String,
    advertiser: String,
    image: Option<String>,
    html: Option<String>,
    width: u16,
    height: u16,
    url: String,
    #[serde(default)]
    pass_query: bool,
    #[serde(default = "default_weight")]
    weight: u32,
    #[serde(default)]
    price_micros: i64,
    currency: Option<String>,
}

const fn default_weight() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlacementEntry {
    #[serde(skip)]
    index: Option<usize>,
    id: String,
    publisher: String,
    #[serde(default)]
    ads: Vec<String>,
}

/// Collects what is wrong, with the place in the catalogue.
struct Errors {
    /// The place that is being checked.
    place: String,
    found: Vec<String>,
    /// See [`Catalogue::notes`].
    notes: Vec<String>,
}

impl Errors {
    fn take<T>(&mut self, result: Result<T, impl ToString>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.found.push(format!("{}: {}", self.place, error.to_string()));
                None
            }
        }
    }

    /// The address in the form in which it is stored; a note when that is another one.
    fn address(&mut self, field: &str, text: &str, schemes: &Schemes) -> Result<String, String> {
        let stored = stored_as(text, schemes)?;
        if stored != text {
            self.notes.push(format!("{}: {field}: {text:?} is stored as {stored}", self.place));
        }
        Ok(stored)
    }

    fn once(&mut self, is_first: bool) {
        self.take(if is_first { Ok(()) } else { Err("this id is there twice") });
    }

    fn name<T: Named>(&mut self, field: &str, text: &str) -> Option<NameBuf<T>> {
        self.any_name(field, text).map(NameBuf::cast)
    }

    fn any_name(&mut self, field: &str, text: &str) -> Option<NameBuf<Any>> {
        self.take(text.parse::<NameBuf<Any>>().map_err(|error| format!("{field}: {error}")))
    }

    fn within<T: PartialOrd + Copy + std::fmt::Display>(
        &mut self,
        field: &str,
        value: T,
        low: T,
        high: T,
    ) -> Option<T> {
        let fits = low <= value && value <= high;
        let error = || format!("{field} is {value}, and must be {low} to {high}");
        self.take(if fits { Ok(value) } else { Err(error()) })
    }
}

/// The first [`ERRORS_SHOWN_MAX`] errors, and how many more there are.
fn shown(mut found: Vec<String>) -> Vec<String> {
    let more = found.len().saturating_sub(ERRORS_SHOWN_MAX);
    if more > 0 {
        found.truncate(ERRORS_SHOWN_MAX);
        found.push(format!("and {more} more"));
    }
    found
}

/// Checks a catalogue as a whole. `bad` are the names of ads that could not be read as entries: a placement
/// that shows one of them is not wrong for that.
fn check(file: Written, bad: Vec<String>) -> Result<Catalogue, CatalogueError> {
    let mut errors = Errors { place: "lifetimes".to_owned(), found: Vec::new(), notes: Vec::new() };
    let most_s = u32::try_from(TOKEN_LIFE_MS_MAX / 1000).unwrap_or(u32::MAX);
    let lives = &file.lifetimes;
    errors.within("impression_s", lives.impression_s, 1, most_s);
    errors.within("click_s", lives.click_s, 1, most_s);
    errors.place = "links".to_owned();
    let (schemes, wrong) = Schemes::allowed(file.links.schemes);
    for why in wrong {
        errors.take(Err::<(), _>(format!("schemes: {why}")));
    }
    let mut catalogue = Catalogue {
        impression_life_s: lives.impression_s,
        click_life_s: lives.click_s,
        schemes,
        ..Catalogue::default()
    };
    let mut by_name: HashMap<&str, usize> = HashMap::new();
    // Names of wrong ads. Their errors are reported once, not again for each placement that shows them.
    let mut bad: HashSet<&str> = bad.iter().map(String::as_str).collect();
    let mut seen: HashSet<&str> = bad.clone();
    for (index, entry) in file.ads.iter().enumerate() {
        errors.place = format!("ads[{}] ({:?})", entry.index.unwrap_or(index), entry.id);
        errors.once(seen.insert(&entry.id));
        let Some(ad) = check_ad(entry, &catalogue.schemes, &mut errors) else {
            bad.insert(&entry.id);
            continue;
        };
        by_name.insert(&entry.id, catalogue.ads.len());
        catalogue.ads.push(ad);
    }
    seen.clear();
    for (index, entry) in file.placements.iter().enumerate() {
        errors.place = format!("placements[{}] ({:?})", entry.index.unwrap_or(index), entry.id);
        errors.once(seen.insert(&entry.id));
        let mut ads: Vec<(usize, u64)> = Vec::new();
        for name in &entry.ads {
            let Some(&ad) = by_name.get(name.as_str()) else {
                if !bad.contains(name.as_str()) {
                    errors.take(Err::<(), _>(format!("there is no ad {name:?}")));
                }
                continue;
            };
            if ads.iter().any(|(other, _)| *other == ad) {
                errors.take(Err::<(), _>(format!("the ad {name:?} is listed twice")));
            }
            let upto =
                ads.last().map_or(0, |(_, upto)| *upto) + u64::from(catalogue.ads[ad].weight);
            ads.push((ad, upto));
        }
        let names = (errors.name("id", &entry.id), errors.name("publisher", &entry.publisher));
        if let (Some(id), Some(publisher)) = names {
            let id: PlacementName = id;
            for (ad, _) in &ads {
                errors.take(landing::check_filled(&catalogue.ads[*ad], &id, &publisher));
            }
            catalogue.placements.insert(id.id(), Placement { id, publisher, ads });
        }
    }
    catalogue.notes = errors.notes;
    if errors.found.is_empty() { Ok(catalogue) } else { Err(CatalogueError(shown(errors.found))) }
}

fn check_ad(entry: &AdEntry, schemes: &Schemes, errors: &mut Errors) -> Option<Ad> {
    let id = errors.name("id", &entry.id);
    let campaign = errors.name("campaign", &entry.campaign);
    let advertiser = errors.name("advertiser", &entry.advertiser);
    let creative = check_creative(entry, errors);
    let creative = errors.take(creative);
    let width = errors.within("width", entry.width, 1, PIXELS_MAX);
    let height = errors.within("height", entry.height, 1, PIXELS_MAX);
    let weight = errors.within("weight", entry.weight, 1, WEIGHT_MAX);
    let url = errors.address("url", &entry.url, schemes).map_err(|error| format!("url: {error}"));
    let url = errors.take(url);
    let is_web = url.as_deref().is_none_or(|url| Schemes::default().allow(url));
    let passes = if entry.pass_query && !is_web {
        Err("pass_query: only a link by https or http has a query that could go along")
    } else {
        Ok(())
    };
    errors.take(passes);
    let price = errors.take(check_price(entry));
    Some(Ad {
        id: id?,
        campaign: campaign?,
        advertiser: advertiser?,
        creative: creative?,
        width: width?,
        height: height?,
        url: url?,
        pass_query: entry.pass_query,
        weight: weight?,
        price: price?,
    })
}

fn check_creative(entry: &AdEntry, errors: &mut Errors) -> Result<Creative, String> {
    match (&entry.image, &entry.html) {
        (Some(image), None) => {
            let image = errors.address("image", image, &Schemes::default());
            let image = image.and_then(|image| check_web(&image).map(|()| image));
            let image = image.map_err(|why| {
                let why = why.replace("a landing URL", "an image URL").replace("landing", "image");
                format!("image: {}", why.replace(OR_SCHEMES, ""))
            })?;
            Ok(Creative::Image(image))
        }
        (None, Some(html)) if html.is_empty() => Err("html is empty".to_owned()),
        (None, Some(html)) if html.len() > HTML_BYTES_MAX => {
            Err(format!("html has {} bytes, and may have {HTML_BYTES_MAX}", html.len()))
        }
        (None, Some(html)) => Ok(Creative::Html(html.clone())),
        _ => Err("an ad has either an image or html".to_owned()),
    }
}

fn check_price(entry: &AdEntry) -> Result<Money, String> {
    let micros = entry.price_micros;
    match &entry.currency {
        _ if micros < 0 => Err(format!("price_micros is {micros}, and no price is below 0")),
        Some(code) => {
            let currency: Currency = code.parse().map_err(|error| format!("currency: {error}"))?;
            Ok(Money { micros, currency })
        }
        None if micros == 0 => Ok(Money::ZERO),
        None => Err("price_micros needs a currency".to_owned()),
    }
}

#[cfg(test)]
mod tests;
