//! Values of libraries: what `quantity`, `ip`, `url` and their like return.

use std::net::IpAddr;

use apimachinery::quantity::Quantity;

use super::authorizer::AuthorizerValue;
use super::format::NamedFormat;
use super::semver::Semver;
use super::urls::Url;
use crate::types::Type;

/// A value of a library.
#[derive(Debug, Clone)]
pub enum Opaque {
    /// `quantity("1Gi")`
    Quantity(Quantity),
    /// `ip("10.0.0.1")`
    Ip(IpAddr),
    /// `cidr("10.0.0.0/8")`: an address and how many bits name the network.
    Cidr(IpAddr, u8),
    /// `url("https://example.com")`
    Url(Url),
    /// `semver("1.2.3")`
    Semver(Semver),
    /// `format.dns1123Label()`
    Format(&'static NamedFormat),
    /// `authorizer` and what it is asked.
    Authorizer(Box<AuthorizerValue>),
}

impl Opaque {
    /// The name of its type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Authorizer(it) => it.type_name(),
        }
    }

    pub(crate) fn type_of(&self) -> Type {
        crate::types::read(self.type_name())
    }

    pub(crate) fn size(&self) -> Option<usize> {
        crate::cost::runtime::opaque_size(self)
    }

    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a, n), Self::Cidr(b, m)) => a == b && n == m,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a.compare(b).is_eq(),
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Authorizer(a), Self::Authorizer(b)) => a == b,
            _ => false,
        }
    }
}
