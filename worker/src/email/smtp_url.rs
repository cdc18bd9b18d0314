//! SMTP_URL: `smtp://user:password@host:port/ehlo-name?tls=required`, after the conventions of lettre's
//! own `from_url`, which keeps what it read to itself.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use lettre::transport::smtp::{
    authentication::Credentials,
    client::{Certificate, CertificateStore, Tls, TlsParameters},
    extension::ClientId,
};
use rustls::pki_types::{
    CertificateDer,
    pem::{self, PemObject},
};
use url::Url;

/// Where and how to reach the mail server.
pub(super) struct SmtpServer {
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    pub credentials: Option<Credentials>,
    pub hello: ClientId,
}

#[derive(Debug, thiserror::Error)]
pub enum SmtpUrlError {
    #[error("SMTP_URL is not a URL: {0}")]
    NotAUrl(#[from] url::ParseError),
    #[error("SMTP_URL names no host")]
    NoHost,
    #[error("SMTP_URL must start with smtp:// or smtps://, not {0}://")]
    UnknownScheme(String),
    #[error("SMTP_URL: tls is `required` or `opportunistic` and goes with smtp://, not `{0}`")]
    UnknownTls(String),
    #[error("SMTP_URL: user or password is not percent-encoded UTF-8")]
    NotUtf8,
    #[error("SMTP_URL: no TLS to {host}: {source}")]
    Tls {
        host: String,
        source: lettre::transport::smtp::Error,
    },
    #[error("SMTP_CA_FILE: {}: {source}", file.display())]
    CaFile { file: PathBuf, source: pem::Error },
    #[error("SMTP_CA_FILE: no certificate in {}", .0.display())]
    NoCertificate(PathBuf),
    #[error("SMTP_CA_FILE is for TLS: SMTP_URL must be smtps://… or smtp://…?tls=required")]
    CaFileWithoutTls,
    #[error("MAIL_FROM is not an address such as `Roost <stay@roost.example>`: {0}")]
    Sender(#[from] lettre::address::AddressError),
}

impl SmtpServer {
    /// | URL | default port | |
    /// |---|---|---|
    /// | `smtps://` | 465 | TLS from the first byte |
    /// | `smtp://…?tls=required` | 587 | STARTTLS, or no mail |
    /// | `smtp://…?tls=opportunistic` | 587 | STARTTLS if offered: not safe from an attacker in between |
    /// | `smtp://` | 25 | never encrypted: for a server on this machine |
    ///
    /// The server's certificate must be for the URL's host, and signed by one of Mozilla's authorities or, where
    /// `ca_file` is given, of that file's.
    pub fn parse(text: &str, ca_file: Option<&Path>) -> Result<Self, SmtpUrlError> {
        let url = Url::parse(text)?;
        if !matches!(url.scheme(), "smtp" | "smtps") {
            return Err(SmtpUrlError::UnknownScheme(url.scheme().to_owned()));
        }
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or(SmtpUrlError::NoHost)?;
        // A literal IPv6 address stands in brackets in a URL only.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let wanted = url
            .query_pairs()
            .find(|(name, _)| name == "tls")
            .map(|(_, value)| value);
        let parameters = || trusted(&host, ca_file);
        let (port, tls) = match (url.scheme(), wanted.as_deref()) {
            ("smtps", None | Some("required")) => (465, Tls::Wrapper(parameters()?)),
            ("smtp", Some("required")) => (587, Tls::Required(parameters()?)),
            ("smtp", Some("opportunistic")) => (587, Tls::Opportunistic(parameters()?)),
            // Somebody believes that this is encrypted.
            ("smtp", None) if ca_file.is_some() => return Err(SmtpUrlError::CaFileWithoutTls),
            ("smtp", None) => (25, Tls::None),
            (_, other) => {
                return Err(SmtpUrlError::UnknownTls(other.unwrap_or_default().to_owned()));
            }
        };
        let decoded = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| SmtpUrlError::NotUtf8)
        };
        let credentials = match url.password() {
            Some(password) => Some(Credentials::new(decoded(url.username())?, decoded(password)?)),
            None => None,
        };
        let hello = match url.path().trim_matches('/') {
            "" => ClientId::default(),
            name => ClientId::Domain(name.to_owned()),
        };
        Ok(Self {
            port: url.port().unwrap_or(port),
            tls,
            credentials,
            hello,
            host,
        })
    }
}

fn trusted(host: &str, ca_file: Option<&Path>) -> Result<TlsParameters, SmtpUrlError> {
    let no_tls = |source| SmtpUrlError::Tls {
        host: host.to_owned(),
        source,
    };
    let mut parameters = TlsParameters::builder(host.to_owned());
    if let Some(file) = ca_file {
        parameters = parameters.certificate_store(CertificateStore::None);
        for certificate in authorities(file)? {
            let certificate = Certificate::from_der(certificate.to_vec()).map_err(no_tls)?;
            parameters = parameters.add_root_certificate(certificate);
        }
    }
    parameters.build().map_err(no_tls)
}

/// What else the file holds, such as a key, is passed over.
fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, SmtpUrlError> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| SmtpUrlError::CaFile {
            file: file.to_owned(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(SmtpUrlError::NoCertificate(file.to_owned()));
    }
    Ok(certificates)
}

/// Without the password.
impl fmt::Debug for SmtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_says_how_to_encrypt() {
        let read = |url| SmtpServer::parse(url, None).unwrap();
        let server = read("smtp://localhost");
        assert_eq!((server.port, matches!(server.tls, Tls::None)), (25, true));
        let server = read("smtp://mail.example:2525?tls=required");
        assert_eq!((server.port, matches!(server.tls, Tls::Required(_))), (2525, true));
        let server = read("smtp://mail.example?tls=opportunistic");
        assert_eq!((server.port, matches!(server.tls, Tls::Opportunistic(_))), (587, true));
        let server = read("smtps://mail.example");
        assert_eq!((server.port, matches!(server.tls, Tls::Wrapper(_))), (465, true));
    }

    #[test]
    fn credentials_are_percent_decoded_and_never_shown() {
        let server = SmtpServer::parse("smtps://post%40roost:p%3Ass@mail.example/out.roost", None).unwrap();
        let expected = Credentials::new("post@roost".to_owned(), "p:ss".to_owned());
        assert_eq!(server.credentials, Some(expected));
        assert_eq!(server.hello, ClientId::Domain("out.roost".to_owned()));
        assert_eq!(format!("{server:?}"), "mail.example:465");
        assert!(
            SmtpServer::parse("smtp://localhost:1025", None)
                .unwrap()
                .credentials
                .is_none()
        );
    }

    #[test]
    fn an_address_of_version_six_loses_its_brackets() {
        assert_eq!(SmtpServer::parse("smtp://[::1]:1025", None).unwrap().host, "::1");
    }

    #[test]
    fn a_wrong_url_says_what_is_wrong() {
        let refusal = |url| SmtpServer::parse(url, None).unwrap_err().to_string();
        assert!(refusal("localhost:25").contains("smtp://"));
        assert!(refusal("http://mail.example").contains("not http://"));
        assert!(refusal("smtp://mail.example?tls=maybe").contains("`maybe`"));
        assert!(refusal("not a url").contains("not a URL"));
    }

    #[test]
    fn a_file_without_authorities_is_refused_at_the_start() {
        let refusal = |url, file: &Path| SmtpServer::parse(url, Some(file)).unwrap_err().to_string();
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let none = refusal("smtps://mail.example", &ours);
        assert!(none.starts_with("SMTP_CA_FILE: no certificate in"), "{none}");
        let missing = refusal("smtp://mail.example?tls=required", Path::new("/no/such/file.pem"));
        assert!(
            missing.starts_with("SMTP_CA_FILE: /no/such/file.pem: ") && missing.contains("No such file"),
            "{missing}"
        );
        assert!(refusal("smtp://mail.example", &ours).contains("tls=required"));
    }
}
