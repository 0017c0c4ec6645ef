//! Tells when a socket has received something, and when it takes datagrams again.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod both;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod readable_only;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use self::both::{Ready, UdpSocket, Writable};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use self::readable_only::{Ready, UdpSocket, Writable};
