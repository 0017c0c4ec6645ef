//! The tracker as its users have it: the real binary, asked over real sockets.

mod abuse;
mod bad_input;
mod bans;
mod clients;
mod command_line;
#[cfg(target_os = "linux")]
mod isolated_hosts;
#[cfg(target_os = "linux")]
mod prometheus;
mod requests;
mod running;
mod separate_bindings;

const BAD_ID: &str = "connection ID mismatch";
