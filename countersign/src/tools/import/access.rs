//! Access logs of web servers, in which some requests are events: in the common and combined form
//! (Apache, nginx), and in W3C's extended form (IIS, CloudFront).

use std::borrow::Cow;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use shared::Kind;

use super::columns::{AGENT, EVENT, IP, NAMES, TIME, Texts, utf8};

/// How the combined form writes its times.
pub(super) const TIME_FORMAT: &str = "%d/%b/%Y:%H:%M:%S %z";
/// Begins the line that names the fields of W3C's form.
const FIELDS: &str = "#Fields:";

/// Which requests are events, and where they name the ad: `[EVENT=]PATH[?QUERY]`, with `{ad_id}`
/// and the like where a column's value stands, and `*` where anything may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    kind: Option<Kind>,
    path: Vec<Part>,
    query: Vec<(String, Part)>,
}

/// A segment of a path, or the value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Is(String),
    /// The text between `before` and `after` is the column's value; `None` for `*`, whose text is
    /// ignored.
    Holds {
        before: String,
        column: Option<usize>,
        after: String,
    },
}

impl Part {
    fn new(text: &str) -> Result<Self, String> {
        let (before, hole, after) = match (text.split_once('*'), text.split_once('{')) {
            (Some((before, after)), None) => (before, None, after),
            (None, Some((before, rest))) => {
                let (name, after) = rest.split_once('}').ok_or("a { without its }")?;
                (before, Some(name), after)
            }
            (None, None) => return Ok(Self::Is(text.to_owned())),
            (Some(_), Some(_)) => return Err(format!("{text}: one * or one {{name}} in a part")),
        };
        if after.contains(['*', '{', '}']) || before.contains('}') {
            return Err(format!("{text}: one * or one {{name}} in a part"));
        }
        let column = hole.map(|name| {
            let place = NAMES.iter().position(|known| *known == name);
            match place.ok_or_else(|| {
                format!("{{{name}}}: no column is called so; there are {}", NAMES.join(", "))
            })? {
                EVENT => Err("{event}: it stands before the path, as in impression=/pixel/{ad_id}"
                    .to_owned()),
                AGENT => Err("{user_agent}: the log's line says it".to_owned()),
                at => Ok(at),
            }
        });
        let (before, after) = (before.to_owned(), after.to_owned());
        Ok(Self::Holds { before, column: column.transpose()?, after })
    }

    /// Whether a text matches; the value in it goes to its column.
    fn matches(&self, text: &str, into: &mut Texts) -> bool {
        match self {
            Self::Is(literal) => text == literal,
            Self::Holds { before, column, after } => {
                let rest = text.strip_prefix(before.as_str());
                let held = rest.and_then(|rest| rest.strip_suffix(after.as_str()));
                if let (Some(held), Some(column)) = (held, column) {
                    into[*column] = Some(held.to_owned());
                }
                held.is_some_and(|held| !held.is_empty())
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, request) = match text.split_once('=') {
            Some((kind, request)) if !kind.contains('/') => {
                (Some(kind.trim().parse().map_err(|error| format!("{kind}: {error}"))?), request)
            }
            _ => (None, text),
        };
        let (path, query) = request.trim().split_once('?').unwrap_or((request.trim(), ""));
        let path = path.strip_prefix('/').ok_or("a path begins with /")?;
        let path = path.split('/').map(Part::new).collect::<Result<_, _>>()?;
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "*"));
            Ok((name.to_owned(), Part::new(value)?))
        });
        let pattern = Self { kind, path, query: query.collect::<Result<_, String>>()? };
        let mut columns: Vec<_> = pattern.columns().collect();
        columns.sort_unstable();
        match columns.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(format!("{{{}}} stands twice in it", NAMES[twice[0]])),
            None => Ok(pattern),
        }
    }
}

impl Pattern {
    /// The columns whose values the pattern holds.
    fn columns(&self) -> impl Iterator<Item = usize> {
        let parts = self.path.iter().chain(self.query.iter().map(|(_, part)| part));
        parts.filter_map(|part| match part {
            Part::Holds { column, .. } => *column,
            Part::Is(_) => None,
        })
    }

    /// The values in a request, if it matches.
    fn read(&self, path: &str, query: &str) -> Option<Texts> {
        let mut said = Texts::default();
        let mut segments = path.strip_prefix('/')?.split('/');
        for part in &self.path {
            // What is not UTF-8 becomes U+FFFD, which no name may have: the row is rejected.
            let segment = percent_decode_str(segments.next()?).decode_utf8_lossy();
            if !part.matches(&segment, &mut said) {
                return None;
            }
        }
        if segments.next().is_some() {
            return None;
        }
        let mut has = |(name, part): &(String, Part)| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            // Of a parameter that is given twice the first counts, as on most servers.
            let value = pairs.find(|(key, _)| key == name);
            value.is_some_and(|(_, value)| part.matches(&value, &mut said))
        };
        if !self.query.iter().all(&mut has) {
            return None;
        }
        said[EVENT] = self.kind.map(|kind| kind.to_string());
        Some(said)
    }
}

/// A request in a log: by whom, when, what for, and how it was answered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request<'a> {
    ip: &'a str,
    time: Cow<'a, str>,
    method: &'a str,
    path: &'a str,
    query: &'a str,
    status: &'a str,
    agent: Cow<'a, str>,
}

impl Request<'_> {
    /// Whether it was a GET or POST that was answered with success or a redirect: then somebody got
    /// what it asks for.
    fn is_answered(&self) -> bool {
        let status = self.status.parse::<u16>();
        ["GET", "POST"].contains(&self.method) && status.is_ok_and(|s| (200..400).contains(&s))
    }
}

/// How a log's lines are read.
#[derive(Debug, Default)]
pub(super) struct Access {
    patterns: Vec<Pattern>,
    /// In W3C's form, the names of the fields of a line.
    fields: Option<Vec<String>>,
}

impl Access {
    /// Without `fields` the lines are in the common or combined form.
    pub(super) const fn new(patterns: Vec<Pattern>, fields: Option<Vec<String>>) -> Self {
        Self { patterns, fields }
    }

    /// The values in a line; `None` when it is another request, or a comment of the log.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn read(&mut self, line: &[u8]) -> Result<Option<Texts>, String> {
        let line = utf8(line)?;
        let request = match &self.fields {
            None => combined(line).ok_or("no line of an access log (common or combined form)")?,
            Some(_) if line.starts_with('#') => {
                if let Some(fields) = fields(line)? {
                    self.fields = Some(fields);
                }
                return Ok(None);
            }
            Some(fields) => w3c(fields, line)?,
        };
        if !request.is_answered() {
            return Ok(None);
        }
        let path = of_origin(request.path);
        let mut found =
            self.patterns.iter().filter_map(|pattern| pattern.read(path, request.query));
        let said = found.next().map(|mut said| {
            let mut put = |at: usize, text: &str| {
                let is_something = !matches!(text, "" | "-") && said[at].is_none();
                said[at] = if is_something { Some(text.to_owned()) } else { said[at].take() };
            };
            put(IP, request.ip);
            put(TIME, &request.time);
            put(AGENT, &request.agent);
            said
        });
        Ok(said)
    }
}

/// The path of a target, without the server that some requests name.
fn of_origin(path: &str) -> &str {
    let Some((scheme, rest)) = path.split_once("://") else { return path };
    if !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return path;
    }
    rest.find('/').map_or("/", |at| &rest[at..])
}

/// The fields that a line names, if it begins with [`FIELDS`].
///
/// # Errors
/// When a field is missing that must be there.
pub(super) fn fields(line: &str) -> Result<Option<Vec<String>>, String> {
    let Some(names) = line.strip_prefix(FIELDS) else { return Ok(None) };
    let names: Vec<String> = names.split_whitespace().map(str::to_ascii_lowercase).collect();
    let has = |name: &str| names.iter().any(|known| known == name);
    let missing = match () {
        () if !(has("cs-uri-stem") || has("cs-uri")) => "cs-uri-stem",
        () if !has("date") => "date",
        () if !has("time") => "time",
        () if !has("sc-status") => "sc-status",
        () if !has("cs-method") => "cs-method",
        () => return Ok(Some(names)),
    };
    Err(format!("its {FIELDS} names no {missing}, and has: {}", names.join(" ")))
}

/// A line of the combined form, of the common one, or of either behind a host's name.
fn combined(line: &str) -> Option<Request<'_>> {
    let tokens: Vec<Token<'_>> = Tokens(line).collect();
    let time = tokens.iter().position(|token| token.kind == b'[')?;
    let text = |at: usize, kind: u8| {
        let token = tokens.get(at).filter(|token| token.kind == kind);
        token.map(|token| token.text)
    };
    let request = text(time + 1, b'"')?;
    // Text that is no request (a TLS hello on an HTTP port) has no second word, and so asks for
    // nothing.
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Request {
        ip: text(time.checked_sub(3)?, b' ')?,
        time: text(time, b'[')?.into(),
        method,
        path,
        query,
        status: text(time + 2, b' ')?,
        agent: unescaped(text(time + 5, b'"').unwrap_or_default()),
    })
}

/// A line of W3C's form.
fn w3c<'a>(fields: &[String], line: &'a str) -> Result<Request<'a>, String> {
    let tokens: Vec<&str> = Tokens(line).map(|token| token.text).collect();
    if tokens.len() != fields.len() {
        return Err(format!("{} fields where {FIELDS} has {}", tokens.len(), fields.len()));
    }
    let field = |name: &str| {
        let at = fields.iter().position(|known| known == name);
        at.map(|at| tokens[at]).filter(|text| *text != "-").unwrap_or_default()
    };
    let (path, query) = match field("cs-uri").split_once('?') {
        Some(both) => both,
        None if field("cs-uri-stem").is_empty() => (field("cs-uri"), ""),
        None => (field("cs-uri-stem"), field("cs-uri-query")),
    };
    // IIS writes `+` for a blank, CloudFront `%20`.
    let agent = field("cs(user-agent)").replace('+', " ");
    Ok(Request {
        ip: field("c-ip"),
        time: format!("{} {}", field("date"), field("time")).into(),
        method: field("cs-method"),
        path,
        query,
        status: field("sc-status"),
        agent: percent_decode_str(&agent).decode_utf8_lossy().into_owned().into(),
    })
}

/// `\"` and `\\` as Apache writes them, `\x22` as nginx does.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    text.replace("\\\"", "\"").replace("\\x22", "\"").replace("\\\\", "\\").into()
}

/// A word, something in brackets, or something in quotes.
struct Token<'a> {
    /// What it begins with: `[` or `"`; a blank stands for a word.
    kind: u8,
    text: &'a str,
}

/// Splits a line at its blanks, but not in brackets nor in quotes.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let line = self.0.trim_start_matches([' ', '\t']);
        let kind = *line.as_bytes().first()?;
        let (text, rest) = match kind {
            b'[' => line[1..].split_once(']')?,
            b'"' => {
                let end = end_of_quotes(&line[1..])?;
                (&line[1..=end], &line[end + 2..])
            }
            _ => line.split_at(line.find([' ', '\t']).unwrap_or(line.len())),
        };
        self.0 = rest;
        Some(Token { kind: if matches!(kind, b'[' | b'"') { kind } else { b' ' }, text })
    }
}

fn end_of_quotes(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })
}

/// Whether a line may be from an access log: `Some(true)` in W3C's form, `Some(false)` in the
/// common or combined form.
pub(super) fn detect(line: &[u8]) -> Option<bool> {
    let line = std::str::from_utf8(line).ok()?;
    let is_directive = ["#Version:", "#Fields:", "#Software:", "#Date:"].iter();
    if is_directive.clone().any(|name| line.starts_with(name)) {
        return Some(true);
    }
    combined(line).map(|_| false)
}

#[cfg(test)]
mod tests;
