//! Which addresses are public, and which others an operator allows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 that is not the internet: IANA's special-purpose registry, and one address that a cloud
/// answers on inside of its machines although it looks public.
const NOT_PUBLIC_V4: [(Ipv4Addr, u8); 17] = [
    // "This network"; `connect` takes 0.0.0.0 for loopback.
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    // Carrier-grade NAT; also a cloud's metadata (100.100.100.200).
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // Azure's wire server.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    // Link-local; the metadata of most clouds (169.254.169.254).
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    // Documentation.
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    // Relays of 6to4.
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    // Benchmarks.
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    // Documentation.
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast.
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    // Reserved, broadcast included.
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    (Ipv4Addr::BROADCAST, 32),
];

/// All of the public IPv6. What is outside of it leads elsewhere: `::1`, IPv4-mapped `::ffff:0:0/96`,
/// NAT64 `64:ff9b::/96`, `fc00::/7`, `fe80::/10`, `ff00::/8`.
const GLOBAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// IPv6 within it that is not the internet, or leads to an IPv4 address of somebody's choice.
const NOT_PUBLIC_V6: [(Ipv6Addr, u8); 4] = [
    // Protocol assignments, Teredo and ORCHID included.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    // Documentation.
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    // 6to4.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// Whether an address is on the internet for everybody.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !NOT_PUBLIC_V4
            .iter()
            .any(|(net, bits)| Net::V4(*net, *bits).has(ip.into())),
        IpAddr::V6(ip) => {
            let (net, bits) = GLOBAL_V6;
            Net::V6(net, bits).has(ip.into())
                && !NOT_PUBLIC_V6
                    .iter()
                    .any(|(net, bits)| Net::V6(*net, *bits).has(ip.into()))
        }
    }
}

/// Addresses that may be called although they are not public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Allow(Vec<Net>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    V4(Ipv4Addr, u8),
    V6(Ipv6Addr, u8),
}

impl Allow {
    /// Reads addresses and networks: `127.0.0.1`, `10.0.0.0/8`, `fd00::/8`.
    pub(super) fn parse(texts: &[String]) -> Result<Self, String> {
        let nets = texts.iter().map(|text| {
            Net::parse(text).ok_or_else(|| {
                format!("{text:?} below `allow` is no address and no network like 10.0.0.0/8")
            })
        });
        nets.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn has(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.has(ip))
    }
}

impl Net {
    fn parse(text: &str) -> Option<Self> {
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        match ip.parse().ok()? {
            IpAddr::V4(ip) => {
                let bits = bits.unwrap_or(32);
                (bits <= 32).then_some(Self::V4(ip, bits))
            }
            IpAddr::V6(ip) => {
                let bits = bits.unwrap_or(128);
                (bits <= 128).then_some(Self::V6(ip, bits))
            }
        }
    }

    fn has(self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::V4(net, bits), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                net.to_bits() & mask == ip.to_bits() & mask
            }
            (Self::V6(net, bits), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                net.to_bits() & mask == ip.to_bits() & mask
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_internet_is_not_public() {
        for (ip, public) in [
            ("8.8.8.8", true),
            ("1.1.1.1", true),
            ("100.63.255.255", true),
            ("100.128.0.0", true),
            ("172.15.255.255", true),
            ("172.32.0.0", true),
            ("2606:4700:4700::1111", true),
            ("2001:4860:4860::8888", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("100.100.100.200", false),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("168.63.129.16", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.0.0.192", false),
            ("192.0.2.1", false),
            ("192.88.99.1", false),
            ("192.168.0.1", false),
            ("198.18.0.1", false),
            ("198.51.100.1", false),
            ("203.0.113.1", false),
            ("224.0.0.1", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::127.0.0.1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:8.8.8.8", false),
            ("64:ff9b::7f00:1", false),
            ("64:ff9b:1::1", false),
            ("100::1", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("2002:7f00:1::", false),
            ("3fff::1", false),
            ("fc00::1", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), public, "{ip}");
        }
    }

    #[test]
    fn an_operator_allows_addresses_and_networks() {
        let texts = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"].map(str::to_owned);
        let allow = Allow::parse(&texts).unwrap();
        for (ip, has) in [
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("::ffff:127.0.0.1", false),
        ] {
            assert_eq!(allow.has(ip.parse().unwrap()), has, "{ip}");
        }
        for bad in ["", "localhost", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "1"] {
            assert!(Allow::parse(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
        let all = Allow::parse(&["0.0.0.0/0".to_owned()]).unwrap();
        assert!(all.has("192.168.1.1".parse().unwrap()));
    }
}
