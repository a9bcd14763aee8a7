//! The names in a client's certificate.
//!
//! Takes a certificate that TLS has verified, as DER; produces the names in it that can
//! be granted something. Promises that each is printable ASCII (URI, DNS) or without
//! control characters (CN), and has 255 bytes at most: others are left out, rather than
//! changed into what may be somebody else's.
#![forbid(unsafe_code)]

use x509_cert::{
    Certificate,
    der::{
        Decode as _, Tag, Tagged as _,
        asn1::{Any, Ia5StringRef, ObjectIdentifier, PrintableStringRef, Utf8StringRef},
    },
    ext::pkix::{SubjectAltName, name::GeneralName},
    name::Name,
};

/// X.520's commonName.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// The longest name.
const LONGEST: usize = 255;

/// The names of one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    uris: Vec<String>,
    /// In lower case.
    dns: Vec<String>,
    /// Only where there is exactly one.
    cn: Option<String>,
}

impl Names {
    /// None where the certificate cannot be read.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?.tbs_certificate;
        let sans = certificate.get::<SubjectAltName>().ok()?;
        let mut names = Self {
            cn: common_name(&certificate.subject),
            ..Self::default()
        };
        for san in sans.map(|(_, sans)| sans.0).unwrap_or_default() {
            match san {
                GeneralName::UniformResourceIdentifier(uri) => names.uris.extend(ascii(&uri)),
                GeneralName::DnsName(dns) => {
                    let dns = ascii(&dns).map(|it| it.to_ascii_lowercase());
                    names.dns.extend(dns);
                }
                _ => {}
            }
        }
        Some(names)
    }

    pub(super) fn has_san(&self, san: &str) -> bool {
        self.uris.iter().any(|it| it == san)
            || self.dns.iter().any(|it| it.eq_ignore_ascii_case(san))
    }

    pub(super) fn has_cn(&self, cn: &str) -> bool {
        self.cn.as_deref() == Some(cn)
    }

    /// Who owns the watches of the certificate's holder: its first URI, else its first
    /// DNS name, else its common name.
    pub(super) fn owner(&self) -> Option<String> {
        let san = self.uris.iter().chain(&self.dns).next();
        match (san, &self.cn) {
            (Some(san), _) => Some(format!("san:{san}")),
            (None, Some(cn)) => Some(format!("cn:{cn}")),
            (None, None) => None,
        }
    }
}

fn ascii(text: &impl AsRef<str>) -> Option<String> {
    let text = text.as_ref();
    let fits = (1..=LONGEST).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

fn common_name(subject: &Name) -> Option<String> {
    let parts = subject.0.iter().flat_map(|part| part.0.iter());
    let mut found = parts.filter(|it| it.oid == COMMON_NAME);
    let (Some(only), None) = (found.next(), found.next()) else {
        return None;
    };
    let text = text(&only.value)?;
    let fits = (1..=LONGEST).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then_some(text)
}

fn text(value: &Any) -> Option<String> {
    match value.tag() {
        Tag::Utf8String => value
            .decode_as::<Utf8StringRef<'_>>()
            .map(|it| it.as_str().to_owned()),
        Tag::PrintableString => value
            .decode_as::<PrintableStringRef<'_>>()
            .map(|it| it.as_str().to_owned()),
        Tag::Ia5String => value
            .decode_as::<Ia5StringRef<'_>>()
            .map(|it| it.as_str().to_owned()),
        _ => return None,
    }
    .ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn names(sans: Vec<SanType>, cns: &[&str]) -> Names {
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans;
        params.distinguished_name = rcgen::DistinguishedName::new();
        for cn in cns {
            params
                .distinguished_name
                .push(DnType::CommonName, DnValue::Utf8String((*cn).to_owned()));
        }
        let key = KeyPair::generate().unwrap();
        Names::of(params.self_signed(&key).unwrap().der()).unwrap()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    #[test]
    fn a_uri_is_exact_a_dns_name_without_case_and_the_common_name_exact() {
        let sans = vec![dns("Client.Example"), uri("spiffe://x/Y")];
        let names = names(sans, &["Somebody"]);
        assert!(names.has_san("client.example") && names.has_san("CLIENT.example"));
        assert!(names.has_san("spiffe://x/Y") && !names.has_san("spiffe://x/y"));
        assert!(!names.has_san("Somebody") && !names.has_san("spiffe://x/Y/z"));
        assert!(names.has_cn("Somebody") && !names.has_cn("somebody"));
        assert!(!names.has_cn("client.example"));
        assert_eq!(names.owner().unwrap(), "san:spiffe://x/Y");
    }

    #[test]
    fn the_owner_is_the_best_name_there_is() {
        let of = |sans, cns: &[&str]| names(sans, cns).owner();
        assert_eq!(of(vec![dns("A.b")], &["c"]).unwrap(), "san:a.b");
        assert_eq!(of(vec![], &["c d"]).unwrap(), "cn:c d");
        assert_eq!(of(vec![], &[]), None);
    }

    #[test]
    fn names_that_could_deceive_are_left_out() {
        let long = "x".repeat(256);
        for sans in [
            vec![uri("a b")],
            vec![uri("a\nb")],
            vec![uri(&long)],
            vec![uri("")],
        ] {
            assert_eq!(names(sans, &["cn"]).owner().unwrap(), "cn:cn");
        }
        for cn in ["a\nb", "\u{1b}[2J", "", &long] {
            assert_eq!(names(vec![], &[cn]).owner(), None, "{cn:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert_eq!(Names::of(b"\x30\x03\x02\x01\x05"), None);
    }
}
