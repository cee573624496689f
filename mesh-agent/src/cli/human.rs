//! Sizes and times as people read them. Tables use these; JSON has the raw numbers.

/// A size: `512 B`, `1.5 KiB`, `3.0 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would print as 1024.0 belongs to the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A span of seconds by its two largest parts: `12s`, `3m05s`, `2h10m`, `4d3h`.
pub(super) fn seconds(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// A span of milliseconds: below ten seconds with a part of a second, then as [`seconds`].
pub(super) fn millis(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis}ms"),
        1000..10_000 => format!("{}.{}s", millis / 1000, millis % 1000 / 100),
        _ => seconds(millis / 1000),
    }
}

/// Time until something expires: as [`seconds`], or `expired`.
pub(super) fn until(seconds_left: i64) -> String {
    match u64::try_from(seconds_left) {
        Ok(left) if left > 0 => seconds(left),
        _ => "expired".into(),
    }
}

/// A SPIFFE URI by what tells workloads of one mesh apart: `shop/sa/web` for
/// `spiffe://cluster.local/ns/shop/sa/web`. Anything else stays whole.
pub(super) fn identity(uri: &str) -> &str {
    uri.strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once("/ns/"))
        .map_or(uri, |(_, workload)| workload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (given, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(given), expected);
        }
    }

    #[test]
    fn spans() {
        for (given, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1.0s"),
            (9999, "9.9s"),
            (10_000, "10s"),
            (185_000, "3m05s"),
            (7_800_000, "2h10m"),
            (4 * 86_400_000 + 3 * 3_600_000, "4d3h"),
        ] {
            assert_eq!(millis(given), expected);
        }
        assert_eq!(until(-1), "expired");
        assert_eq!(until(0), "expired");
        assert_eq!(until(61), "1m01s");
    }

    #[test]
    fn identities() {
        assert_eq!(
            identity("spiffe://cluster.local/ns/shop/sa/web"),
            "shop/sa/web"
        );
        assert_eq!(identity("spiffe://other/x"), "spiffe://other/x");
        assert_eq!(identity("-"), "-");
    }
}
