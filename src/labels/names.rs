/// The name of the label for the client's own address family: `inet`, `inet6` or `unknown`.
pub const CLIENT_ADDRESS_IP_FAMILY: &str = "client_address_ip_family";
/// The name of the label for how the client's address reached the socket: `plain`, `v4_mapped_v6`, `nat64` or
/// `unknown`.
pub const CLIENT_ADDRESS_IP_TYPE: &str = "client_address_ip_type";
/// The name of the label for the family of the listening socket's address: `inet`, `inet6` or `unknown`.
pub const SERVER_BINDING_ADDRESS_IP_FAMILY: &str = "server_binding_address_ip_family";
/// The name of the label for the type of the listening socket's address: `plain`, `v4_mapped_v6` or `unknown`.
pub const SERVER_BINDING_ADDRESS_IP_TYPE: &str = "server_binding_address_ip_type";
/// The name of the label for the listening socket's address, such as `::`, or `fe80::1%2` with the number of the interface
/// that a link-local address needs, or `unknown`.
pub const SERVER_BINDING_IP: &str = "server_binding_ip";
/// The name of the label for the listening socket's port, such as `6969`, or `unknown`.
pub const SERVER_BINDING_PORT: &str = "server_binding_port";
/// The name of the label for the listening socket's protocol: `grpc`, `http`, `http3`, `https`, `tcp` or `udp`.
pub const SERVER_BINDING_PROTOCOL: &str = "server_binding_protocol";

/// The value of the labels of an address that is not known.
pub(super) const UNKNOWN: &str = "unknown";
/// The value of a label whose own value is not written.
pub(super) const OTHER: &str = "other";
