//! Parsers of values on the command line.

use std::time::Duration;

use shared::Minute;

/// A whole number of seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u32 = text.parse().map_err(|_| "a whole number of seconds".to_owned())?;
    Ok(Duration::from_secs(seconds.into()))
}

/// At most seven days: what a key has signed is good for no longer, so a longer overlap is a
/// mistake.
pub(super) fn overlap(text: &str) -> Result<Duration, String> {
    let most = Duration::from_millis(shared::limits::HORIZON_MS);
    let within = seconds(text).ok().filter(|overlap| *overlap <= most);
    within.ok_or_else(|| format!("a whole number of seconds from 0 to {}", most.as_secs()))
}

/// A whole minute: Unix seconds or RFC 3339.
pub(crate) fn minute(text: &str) -> Result<Minute, String> {
    let time = shared::Timestamp::parse(text).map_err(|error| error.to_string())?;
    let minute = time.minute();
    if minute.start() == time {
        return Ok(minute);
    }
    // The API's words for the same mistake.
    let below = minute.start();
    Err(format!("{time} is not a whole minute; {below} is one, {} seconds", below.seconds()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        assert_eq!(overlap("604800"), Ok(Duration::from_secs(604_800)));
        for text in ["604801", "-1", "a minute"] {
            assert!(overlap(text).unwrap_err().contains("from 0 to 604800"), "{text}");
        }
        let whole = minute("61").unwrap_err();
        assert!(whole.contains("1970-01-01T00:01:00Z is one, 60 seconds"), "{whole}");
        let ms = minute("1795305600000").unwrap_err();
        assert!(ms.contains("Unix seconds, not milliseconds"), "{ms}");
    }
}
