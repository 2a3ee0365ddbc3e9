//! Typed bytes that are signals, by the rules of the kernel's line discipline (`n_tty.c`).
//!
//! The kernel takes ^C and ^\ out of the input and signals the terminal's foreground processes. A guest
//! is none, so nobody is signalled; who types is heard here instead, in the same bytes and by the same
//! settings, before the kernel swallows them.

use rustix::termios::{LocalModes, SpecialCodeIndex, Termios};

use crate::lifecycle::Signal;

/// A character that is switched off in the settings (`_POSIX_VDISABLE`).
const DISABLED: u8 = 0;

/// The settings that make a byte a signal, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keys {
    interrupt: Option<u8>,
    quit: Option<u8>,
    /// The byte after this one means nothing.
    quote: Option<u8>,
}

impl From<&Termios> for Keys {
    fn from(settings: &Termios) -> Self {
        let modes = settings.local_modes;
        let key = |index, on: bool| {
            Some(settings.special_codes[index]).filter(|key| on && *key != DISABLED)
        };
        let signals = modes.contains(LocalModes::ISIG);
        let editing = modes.contains(LocalModes::ICANON | LocalModes::IEXTEN);
        Self {
            interrupt: key(SpecialCodeIndex::VINTR, signals),
            quit: key(SpecialCodeIndex::VQUIT, signals),
            quote: key(SpecialCodeIndex::VLNEXT, editing),
        }
    }
}

impl Keys {
    /// The signals in `typed`. `quoted` is kept from one call to the next: whether the byte before was
    /// the quoting one.
    pub(super) fn signals(self, typed: &[u8], quoted: &mut bool) -> Vec<Signal> {
        let mut signals = Vec::new();
        for byte in typed {
            let key = Some(*byte);
            if std::mem::take(quoted) {
            } else if key == self.interrupt {
                signals.push(Signal::INT);
            } else if key == self.quit {
                signals.push(Signal::QUIT);
            } else {
                *quoted = key == self.quote;
            }
        }
        signals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fresh terminal's.
    const FRESH: Keys = Keys {
        interrupt: Some(0x03),
        quit: Some(0x1c),
        quote: Some(0x16),
    };

    fn typed(keys: Keys, pieces: &[&[u8]]) -> Vec<Signal> {
        let mut quoted = false;
        let signals = pieces
            .iter()
            .flat_map(|piece| keys.signals(piece, &mut quoted));
        signals.collect()
    }

    #[test]
    fn interrupt_and_quit_are_signals_in_the_order_typed() {
        let signals = typed(FRESH, &[b"ab\x1cc\x03\n", b"\x03"]);
        assert_eq!(signals, [Signal::QUIT, Signal::INT, Signal::INT]);
        assert_eq!(typed(FRESH, &[b"plain text\n\x04\x1a\x00"]), []);
    }

    #[test]
    fn a_quoted_byte_is_none_in_the_next_piece_either() {
        assert_eq!(typed(FRESH, &[b"\x16\x03"]), []);
        assert_eq!(typed(FRESH, &[b"\x16", b"\x03"]), []);
        assert_eq!(typed(FRESH, &[b"\x16\x16\x03"]), [Signal::INT]);
    }

    #[test]
    fn settings_decide() {
        let raw = Keys {
            interrupt: None,
            quit: None,
            quote: None,
        };
        assert_eq!(typed(raw, &[b"\x03\x1c"]), []);
        let unquoting = Keys {
            quote: None,
            ..FRESH
        };
        assert_eq!(typed(unquoting, &[b"\x16\x03"]), [Signal::INT]);
    }
}
