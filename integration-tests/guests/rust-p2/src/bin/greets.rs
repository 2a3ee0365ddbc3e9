//! One of two layers: has whom its arguments name greeted, by what another component exports.

wit_bindgen::generate!({
    inline: "
        package guests:greets;
        world greets { import guests:greetings/greetings@1.0.0; }
        package guests:greetings@1.0.0 {
            interface greetings {
                resource greeter { constructor(word: string); greet: func(whom: string) -> string; }
            }
        }
    ",
    generate_all,
});

use guests::greetings::greetings::Greeter;

fn main() {
    let greeter = Greeter::new("hello");
    for whom in std::env::args().skip(1) {
        println!("{}", greeter.greet(&whom));
    }
}
