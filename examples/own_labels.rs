//! Your own labels, which have a fixed set of values, next to the labels of the client.
//!
//! ```text
//! cargo run --example own_labels
//! ```

use std::{error::Error, net::SocketAddr};

use dualstack_metrics::{BoundedLabel, ClientScopes, Protocol, Scope, ServerBinding};
use metrics_exporter_prometheus::PrometheusBuilder;

#[derive(Clone, Copy)]
enum Tier {
    Free,
    Paid,
}

impl BoundedLabel for Tier {
    const NAME: &'static str = "tier";
    const VALUES: &'static [&'static str] = &["free", "paid"];

    fn index(self) -> usize {
        self as usize
    }
}

fn serve(client: SocketAddr) {
    // Known only while the request is served, so it is nested into the current scope. A `String` would not compile.
    let tier = if client.port().is_multiple_of(2) {
        Tier::Paid
    } else {
        Tier::Free
    };
    let scope = Scope::current().nest(Scope::new(&tier));
    scope.run(|| metrics::counter!("requests_total").increment(1));
}

fn main() -> Result<(), Box<dyn Error>> {
    let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
    let scopes = ClientScopes::new(ServerBinding::new(Protocol::Tcp, "[::]:7070".parse()?));
    for client in [
        "[::ffff:192.0.2.7]:1",
        "[::ffff:192.0.2.7]:2",
        "[2001:db8::7]:1",
        "[2001:db8::8]:3",
    ] {
        let client = client.parse()?;
        scopes.for_client(client).run(|| serve(client));
    }
    print!("{}", metrics.render());
    Ok(())
}
