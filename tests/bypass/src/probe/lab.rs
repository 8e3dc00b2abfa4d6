//! What is where in the lab's world, for those who serve there and those who ask.

/// Ports that echo what comes, by TCP and UDP. The policies allow the first.
pub const ECHO: [u16; 2] = [7, 9];
/// The same by UDP alone: where QUIC would be (RFC 9000).
pub const QUIC: u16 = 443;
/// The same by TCP alone: where DNS over TLS would be (RFC 7858).
pub const DOT: u16 = 853;
/// Multicast DNS (RFC 6762).
pub const MDNS: u16 = 5353;
/// The groups of multicast DNS.
pub const MDNS_GROUPS: (&str, &str) = ("224.0.0.251", "ff02::fb");

/// The device that leads to the world, and its other end there.
pub const DEVICES: (&str, &str) = ("g0", "w0");

/// Sockets by which other programs of the host find names: systemd's resolver
/// (varlink), the name service cache, D-Bus.
pub const NAME_SERVICES: [&str; 3] = [
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket",
    "/run/dbus/system_bus_socket",
];
/// What they say to whoever connects.
pub const NAME_SERVICE_SAYS: &str = "a name service";

/// An address that no name leads to and no rule names, with an echo.
pub const UNTOLD: &str = "198.51.100.7:7";
