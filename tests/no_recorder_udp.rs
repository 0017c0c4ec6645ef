//! A UDP server without a recorder logs which line is missing. The warning is for the process, hence a binary of its own.

use test_support::{
    Log, block_on_local,
    udp::{echo, pair, server},
};
use tower::service_fn;

#[test]
fn the_first_datagram_without_a_recorder_is_logged_once() {
    let log = Log::of_process();
    block_on_local(async {
        let (running, client, _) = pair(server("127.0.0.1:0").without_counters(), service_fn(echo)).await;
        for _ in 0..3 {
            client.ask(b"x").await;
        }
        running.stop().await;
    });
    log.assert_warning(&["no scoped recorder"]);
}
