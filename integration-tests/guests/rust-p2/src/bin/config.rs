//! `config NAME...`: prints what `wasi:config/store` has for each name, and then all that it has.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guests:config;
            world config { import wasi:config/store@0.2.0-rc.1; }
            package wasi:config@0.2.0-rc.1 {
                interface store {
                    variant error { upstream(string), io(string) }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }
        ",
        generate_all,
    });
}

use bindings::wasi::config::store;

fn main() {
    for name in std::env::args().skip(1) {
        println!("{name}: {:?}", store::get(&name).expect("a store"));
    }
    let mut all = store::get_all().expect("a store");
    all.sort();
    for (name, value) in all {
        println!("all: {name}={value}");
    }
}
