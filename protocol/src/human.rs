//! Sizes and durations as people write them: `4GiB`, `512MB`, `200ms`, `2s`.

/// What could not be read, and what would have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {wanted}")]
pub struct Unreadable {
    text: String,
    wanted: &'static str,
}

fn split(text: &str) -> (&str, &str) {
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim())
}

/// Reads a number of bytes. Units: B, KiB, MiB, GiB, TiB (1024) and kB, MB, GB, TB (1000); K, M, G, T mean 1024.
///
/// ```
/// use coheap_protocol::human::bytes;
/// assert_eq!(bytes("4GiB"), Ok(4 << 30));
/// assert_eq!(bytes("1.5k"), Ok(1536));
/// assert!(bytes("four").is_err());
/// ```
pub fn bytes(text: &str) -> Result<u64, Unreadable> {
    let unreadable = || Unreadable {
        text: text.into(),
        wanted: "size; write for example 4GiB, 512MiB or 1048576",
    };
    let (number, unit) = split(text.trim());
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(unreadable()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(unreadable);
    }
    let fraction: f64 = number.parse().map_err(|_| unreadable())?;
    let bytes = fraction * scale as f64;
    if bytes.is_finite() && bytes < u64::MAX as f64 {
        Ok(bytes as u64)
    } else {
        Err(unreadable())
    }
}

/// Writes a number of bytes the way [`bytes`] reads them, three figures at most.
///
/// ```
/// use coheap_protocol::human::show_bytes;
/// assert_eq!(show_bytes(4 << 30), "4GiB");
/// assert_eq!(show_bytes(1_500_000), "1.43MiB");
/// assert_eq!(show_bytes(17), "17B");
/// ```
pub fn show_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let places = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let number = format!("{value:.places$}");
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        &number
    };
    format!("{number}{}", units[unit])
}

/// Reads a duration: `200ms`, `2s`, `1.5m`, `1h`; a bare number is seconds.
///
/// ```
/// use coheap_protocol::human::duration;
/// use std::time::Duration;
/// assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
/// assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
/// assert!(duration("soon").is_err());
/// ```
pub fn duration(text: &str) -> Result<std::time::Duration, Unreadable> {
    let unreadable = || Unreadable {
        text: text.into(),
        wanted: "duration; write for example 200ms, 2s or 1m",
    };
    let (number, unit) = split(text.trim());
    let seconds = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(unreadable()),
    };
    let number: f64 = number.parse().map_err(|_| unreadable())?;
    std::time::Duration::try_from_secs_f64(number * seconds).map_err(|_| unreadable())
}

/// Writes a duration with a unit that keeps it short.
///
/// ```
/// use coheap_protocol::human::show_duration;
/// use std::time::Duration;
/// assert_eq!(show_duration(Duration::from_micros(180)), "180us");
/// assert_eq!(show_duration(Duration::from_millis(9800)), "9.8s");
/// ```
pub fn show_duration(time: std::time::Duration) -> String {
    let us = time.as_micros();
    match us {
        0..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}ms", us / 1000),
        1_000_000..100_000_000 => format!("{:.1}s", time.as_secs_f64()),
        _ => format!("{}m{:02}s", us / 60_000_000, us / 1_000_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_fit_or_make_no_sense_are_refused() {
        for bad in [
            "",
            "GiB",
            "-1",
            "1.2.3",
            "99999999999TiB",
            "1e400",
            "4 gigs",
            "NaN",
        ] {
            assert!(bytes(bad).is_err(), "{bad} was read");
        }
        assert_eq!(bytes("1 GB"), Ok(1_000_000_000));
        assert_eq!(bytes("0"), Ok(0));
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for n in [0, 1, 1023, 1024, 4 << 30, 3 << 20, 1 << 40] {
            assert_eq!(bytes(&show_bytes(n)), Ok(n));
        }
    }
}
