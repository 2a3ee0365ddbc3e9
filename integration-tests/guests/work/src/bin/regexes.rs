//! Searches text for regular expressions.

use regex::Regex;

fn main() {
    let text = work_guests::text(4 << 20);
    for pattern in [
        r"(?m)^.*error.*timeout.*$",
        r"\b\w+@\w+\.com\b",
        r"\b(\d{4})-(\d{2})-(\d{2})\b",
        r"status=5\d\d latency=[0-9.]+ms",
        r"(?i)get|post",
    ] {
        let pattern = Regex::new(pattern).expect("it is well formed");
        println!("{}", pattern.find_iter(&text).count());
    }
}
