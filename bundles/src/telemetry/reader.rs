//! Reads variables as OpenTelemetry has them: what is not understood is a warning, and the default holds.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::Process;

/// What all variables begin with.
const PREFIX: &str = "OTEL_";
/// The longest of all times, in milliseconds: a day.
const DAY: u64 = 24 * 60 * 60 * 1000;

/// The variables of a process, and what was wrong with those that were read.
pub(super) struct Reader<'a> {
    env: &'a [(String, String)],
    pub(super) warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(process: &'a Process) -> Self {
        Self {
            env: &process.env,
            warnings: Vec::new(),
        }
    }

    /// Whether there is nothing to read.
    pub(super) fn nothing(&self) -> bool {
        !self.env.iter().any(|(name, _)| name.starts_with(PREFIX))
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Warns that `value` is passed over.
    pub(super) fn unknown(&mut self, name: &str, value: &str, instead: &str) {
        self.warn(format!(
            "{name} has the value `{value}`, which is not understood; {instead} it is"
        ));
    }

    /// What a variable says, if it says something.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        let mut env = self.env.iter();
        let (_, value) = env.find(|(known, _)| known == name)?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }

    /// The first of two that says something, with its name.
    pub(super) fn first(&self, names: [&'static str; 2]) -> Option<(&'static str, &'a str)> {
        let mut names = names.into_iter();
        names.find_map(|name| self.text(name).map(|value| (name, value)))
    }

    /// Whether it is `true`.
    pub(super) fn switch(&mut self, name: &str) -> bool {
        let Some(value) = self.text(name) else {
            return false;
        };
        let on = value.eq_ignore_ascii_case("true");
        if !on && !value.eq_ignore_ascii_case("false") {
            self.unknown(name, value, "false");
        }
        on
    }

    /// The place of its value among those that are `known`; the first is the default.
    pub(super) fn choice(&mut self, name: &str, known: &[&'static str]) -> usize {
        let Some(value) = self.text(name) else {
            return 0;
        };
        let mut places = 0..known.len();
        let place = places.find(|place| known[*place].eq_ignore_ascii_case(value));
        place.unwrap_or_else(|| {
            self.unknown(name, value, known[0]);
            0
        })
    }

    /// Those of its values that are `known`. `None` if there are none.
    pub(super) fn list(&mut self, name: &str, known: &[&'static str]) -> Option<Vec<&'static str>> {
        let mut understood = Vec::new();
        for value in self.text(name)?.split(',').map(str::trim) {
            match known.iter().find(|known| known.eq_ignore_ascii_case(value)) {
                Some(known) => understood.push(*known),
                None => self.warn(format!(
                    "{name} has the value `{value}`, which is not understood (there are: {})",
                    known.join(", ")
                )),
            }
        }
        (!understood.is_empty()).then_some(understood)
    }

    /// A whole number in `range`.
    pub(super) fn number(&mut self, name: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.text(name) else {
            return default;
        };
        match value.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (least, most) = range.into_inner();
                self.warn(format!(
                    "{name} has the value `{value}`, which is no whole number from {least} to {most}; {default} it is"
                ));
                default
            }
        }
    }

    /// A time of at least `least` milliseconds.
    pub(super) fn milliseconds(&mut self, name: &str, default: u64, least: u64) -> Duration {
        Duration::from_millis(self.number(name, default, least..=DAY))
    }

    /// How long something may take; 0 is as long as it likes.
    pub(super) fn patience(&mut self, name: &str, default: u64) -> Duration {
        match self.number(name, default, 0..=DAY) {
            0 => Duration::from_millis(DAY),
            time => Duration::from_millis(time),
        }
    }

    /// A number from 0 to 1, which is the default.
    pub(super) fn ratio(&mut self, name: &str) -> f64 {
        let Some(value) = self.text(name) else {
            return 1.0;
        };
        match value.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => {
                self.warn(format!(
                    "{name} has the value `{value}`, which is no number from 0 to 1; 1 it is"
                ));
                1.0
            }
        }
    }

    /// `KEY=VALUE` with commas between, values percent-encoded. All is passed over if one is not understood (Resource
    /// SDK specification).
    pub(super) fn attributes(&mut self, name: &str) -> Vec<(String, String)> {
        let Some(text) = self.text(name) else {
            return Vec::new();
        };
        let mut attributes: Vec<(String, String)> = Vec::new();
        for entry in entries(text) {
            let Some((key, value)) = entry else {
                self.warn(format!(
                    "{name} is no list of KEY=VALUE with commas between and is passed over as a whole"
                ));
                return Vec::new();
            };
            // Each has a key of its own.
            attributes.retain(|(known, _)| *known != key);
            attributes.push((key, value));
        }
        attributes
    }

    /// `NAME=VALUE` with commas between. The values may be secrets, and no warning shows them.
    pub(super) fn headers(&mut self, name: &str, text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (index, entry) in entries(text).enumerate() {
            let header = entry.and_then(|(key, value)| {
                let mut value = HeaderValue::try_from(value).ok()?;
                value.set_sensitive(true);
                Some((HeaderName::try_from(key).ok()?, value))
            });
            match header {
                Some((key, value)) => drop(headers.insert(key, value)),
                None => self.warn(format!(
                    "{name} has an entry that is no NAME=VALUE of a header and is passed over: number {}",
                    index + 1
                )),
            }
        }
        headers
    }
}

/// The entries of a list, as W3C Baggage writes it; `None` for what is none.
fn entries(text: &str) -> impl Iterator<Item = Option<(String, String)>> {
    let entries = text.split(',').map(str::trim);
    entries.filter(|entry| !entry.is_empty()).map(|entry| {
        let (key, value) = entry.split_once('=')?;
        let decoded = |text: &str| {
            let decoded = percent_decode_str(text.trim()).decode_utf8().ok()?;
            Some(decoded.into_owned())
        };
        let key = decoded(key).filter(|key| !key.is_empty())?;
        Some((key, decoded(value)?))
    })
}
