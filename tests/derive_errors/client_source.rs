use dualstack_metrics::client::{ClientSource, FromRequest};

struct Query;

fn ask(_: impl ClientSource<Query>) {}

fn main() {
    ask(FromRequest); //~ is not a source of the client's address for `Query`
    ask("192.0.2.7"); //~ `&str` is not a source of the client's address for `Query`
    ask(|_: &Query| String::new()); //~ is not a source of the client's address for `Query`
}
