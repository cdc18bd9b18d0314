//! Where a request comes from.

use std::net::{IpAddr, Ipv6Addr};

use poem::{Addr, FromRequest, Request, RequestBody};
use roost_shared::sessions::Origin;

use crate::state::AppState;

const LONGEST_USER_AGENT: usize = 200;

/// The client's address and program, as far as they are known.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address, or `unknown` on a Unix socket.
    pub ip: String,
    /// `User-Agent`, cut to 200 characters.
    pub user_agent: Option<String>,
}

impl Client {
    /// Who is counted as one when requests are limited: the address, or with IPv6 the network of 64 bits that one
    /// customer usually has to choose addresses from.
    #[must_use]
    pub fn network(&self) -> String {
        match self.ip.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(IpAddr::V6(ip)) => format!("{}/64", Ipv6Addr::from(u128::from(ip) >> 64 << 64)),
            Ok(ip) => ip.to_string(),
            Err(_) => self.ip.clone(),
        }
    }

    /// What a session remembers of it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin {
            user_agent: self.user_agent.clone(),
            ip: Some(self.ip.clone()),
        }
    }
}

impl<'a> FromRequest<'a> for Client {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        let header = request
            .data::<AppState>()
            .and_then(|state| state.settings.client_ip_header.as_ref());
        let forwarded = header
            .and_then(|name| request.headers().get_all(name).iter().next_back())
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.rsplit(',').next())
            .and_then(|value| value.trim().parse::<IpAddr>().ok());
        let ip = match (forwarded, &request.remote_addr().0) {
            (Some(ip), _) => ip.to_string(),
            (None, Addr::SocketAddr(address)) => address.ip().to_string(),
            (None, _) => "unknown".to_owned(),
        };
        let user_agent = request
            .header(http::header::USER_AGENT)
            .map(|agent| agent.chars().take(LONGEST_USER_AGENT).collect());
        Ok(Self { ip, user_agent })
    }
}
