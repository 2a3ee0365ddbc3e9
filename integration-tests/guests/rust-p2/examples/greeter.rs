//! The other of two layers, and no program: greets for whoever imports it. It is newer than who does, and
//! writes a line of its own, for which it needs what that one needs, too.

wit_bindgen::generate!({
    inline: "
        package guests:greeter;
        world greeter { export guests:greetings/greetings@1.2.0; }
        package guests:greetings@1.2.0 {
            interface greetings {
                resource greeter { constructor(word: string); greet: func(whom: string) -> string; }
                count: func() -> u32;
            }
        }
    ",
    generate_all,
});

use std::sync::atomic::{AtomicU32, Ordering};

use exports::guests::greetings::greetings::{Guest, GuestGreeter};

static COUNT: AtomicU32 = AtomicU32::new(0);

struct Component;

struct Greeter {
    word: String,
}

impl Guest for Component {
    type Greeter = Greeter;

    fn count() -> u32 {
        COUNT.load(Ordering::Relaxed)
    }
}

impl GuestGreeter for Greeter {
    fn new(word: String) -> Self {
        println!("a greeter that says {word}");
        Self { word }
    }

    fn greet(&self, whom: String) -> String {
        COUNT.fetch_add(1, Ordering::Relaxed);
        format!("{} {whom}", self.word)
    }
}

export!(Component);
