use apimachinery::value;

use super::*;

fn key() -> SigningKey {
    let pair = rcgen::KeyPair::generate().unwrap();
    SigningKey::from_pem(&pair.serialize_pem()).unwrap()
}

#[test]
fn what_a_key_signs_its_public_half_verifies() {
    let key = key();
    let token = key.sign(&value!({"iss": "me", "n": 1})).unwrap();
    let other = self::key().public().clone();
    let keys = [other.clone(), key.public().clone()];
    let parsed = Unverified::parse(&token).unwrap();
    assert_eq!(parsed.issuer(), "me");
    assert_eq!(parsed.verify(&keys).unwrap().i64_at(&["n"]), Some(1));
    let wrong_key = Unverified::parse(&token).unwrap().verify(&[other]);
    assert_eq!(wrong_key.unwrap_err(), JwtError::Signature);
}

#[test]
fn a_public_key_is_read_from_pem_under_the_same_id() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let private = SigningKey::from_pem(&pair.serialize_pem()).unwrap();
    let public = VerifyingKey::from_pem(&pair.public_key_pem()).unwrap();
    assert_eq!(&public, private.public());
    assert_eq!(public.to_jwk().str_at(&["crv"]), "P-256");
    assert_eq!(VerifyingKey::from_pem("nonsense"), Err(JwtError::Key));
}

#[test]
fn forged_tokens_do_not_verify() {
    let key = key();
    let keys = [key.public().clone()];
    let token = key.sign(&value!({"iss": "me", "sub": "a"})).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let text = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(json::to_vec(value));
    let claims = text(&value!({"iss": "me", "sub": "b"}));
    let none = text(&value!({"alg": "none"}));
    let hmac = text(&value!({"alg": "HS256", "kid": (key.public().id())}));
    let critical = text(&value!({"alg": "ES256", "crit": ["x"]}));
    let cases = [
        ("other claims", format!("{}.{claims}.{}", parts[0], parts[2]), JwtError::Signature),
        ("no algorithm", format!("{none}.{}.", parts[1]), JwtError::Signature),
        (
            "a public key as a shared secret",
            format!("{hmac}.{}.{}", parts[1], parts[2]),
            JwtError::Signature,
        ),
        ("unknown demands", format!("{critical}.{}.{}", parts[1], parts[2]), JwtError::Malformed),
        ("no signature", format!("{}.{}", parts[0], parts[1]), JwtError::Malformed),
        ("too long", "a".repeat(MAX_TOKEN_BYTES + 1), JwtError::Malformed),
    ];
    for (name, forged, expected) in cases {
        let result = Unverified::parse(&forged).and_then(|it| it.verify(&keys));
        assert_eq!(result.unwrap_err(), expected, "{name}");
    }
}

#[test]
fn every_algorithm_verifies_what_it_signed_and_no_other_does() {
    let rsa = SigningKey::from_pem(include_str!("rsa-for-tests.pem")).unwrap();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = SigningKey::from_pem(&p384.serialize_pem()).unwrap();
    let (p256, claims) = (key(), value!({"iss": "me"}));
    for algorithm in Algorithm::ALL {
        let key = match algorithm {
            Algorithm::Es256 => &p256,
            Algorithm::Es384 => &p384,
            _ => &rsa,
        };
        let token = key.sign_as(algorithm, "k", &claims).unwrap();
        let parsed = Unverified::parse(&token).unwrap();
        let jwk = VerifyingKey::from_jwk(&key.public().to_jwk()).unwrap().with_id("k");
        assert!(
            parsed.is_signed_by_any(std::slice::from_ref(&jwk), &[algorithm]),
            "{}",
            algorithm.name()
        );
        let others: Vec<_> = Algorithm::ALL.into_iter().filter(|it| *it != algorithm).collect();
        assert!(
            !parsed.is_signed_by_any(std::slice::from_ref(&jwk), &others),
            "{}",
            algorithm.name()
        );
        assert!(!parsed.is_signed_by_any(&[jwk.with_id("other")], &[algorithm]));
    }
    assert_eq!(VerifyingKey::all_from_pem(include_str!("rsa-for-tests.pem")).unwrap().len(), 1);
    assert_eq!(VerifyingKey::from_jwk(&value!({"kty": "OKP", "crv": "Ed25519", "x": "AA"})), None);
}
