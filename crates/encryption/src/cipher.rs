//! The ciphers, in upstream's formats. They know bytes and keys, and not where either comes from.

use std::fmt;

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{AesGcm, Nonce};
use cbc::cipher::block_padding::{NoPadding, Pkcs7};
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use component_base::Random;
use crypto_secretbox::XSalsa20Poly1305;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::Zeroizing;

const GCM_NONCE_BYTES: usize = 12;
const BLOCK_BYTES: usize = 16;
const SECRETBOX_NONCE_BYTES: usize = 24;
/// How long a seed, what is mixed into it and the key that comes out are.
pub(crate) const SEED_BYTES: usize = 32;
const TOO_SHORT: &str = "the stored data was shorter than the required size";

/// A cipher with its key.
pub(crate) enum Cipher {
    Gcm(Box<Gcm>),
    Cbc(Zeroizing<Vec<u8>>),
    Secretbox(Box<XSalsa20Poly1305>),
    /// A key of its own for each write, derived from a seed.
    Seeded(Prk),
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gcm(_) => "Gcm",
            Self::Cbc(_) => "Cbc",
            Self::Secretbox(_) => "Secretbox",
            Self::Seeded(_) => "Seeded",
        })
    }
}

/// AES-GCM with a key of any length.
pub(crate) enum Gcm {
    Short(AesGcm<Aes128, U12>),
    Middle(AesGcm<Aes192, U12>),
    Long(AesGcm<Aes256, U12>),
}

struct Derived;

impl KeyType for Derived {
    fn len(&self) -> usize {
        SEED_BYTES
    }
}

impl Gcm {
    pub(crate) fn new(key: &[u8]) -> Result<Self, String> {
        let bad = |_| format!("crypto/aes: invalid key size {}", key.len());
        match key.len() {
            16 => AesGcm::new_from_slice(key).map(Self::Short).map_err(bad),
            24 => AesGcm::new_from_slice(key).map(Self::Middle).map_err(bad),
            _ => AesGcm::new_from_slice(key).map(Self::Long).map_err(bad),
        }
    }

    fn seal(&self, data: &[u8], context: &[u8], random: &dyn Random) -> Result<Vec<u8>, String> {
        let mut nonce = [0; GCM_NONCE_BYTES];
        random.fill(&mut nonce);
        let payload = Payload { msg: data, aad: context };
        let at = Nonce::from_slice(&nonce);
        let sealed = match self {
            Self::Short(cipher) => cipher.encrypt(at, payload),
            Self::Middle(cipher) => cipher.encrypt(at, payload),
            Self::Long(cipher) => cipher.encrypt(at, payload),
        };
        let sealed = sealed.map_err(|_| "the data is too long for AES-GCM".to_owned())?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    fn open(&self, data: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        let Some((nonce, sealed)) = data.split_at_checked(GCM_NONCE_BYTES) else {
            return Err(TOO_SHORT.into());
        };
        let payload = Payload { msg: sealed, aad: context };
        let at = Nonce::from_slice(nonce);
        let opened = match self {
            Self::Short(cipher) => cipher.decrypt(at, payload),
            Self::Middle(cipher) => cipher.decrypt(at, payload),
            Self::Long(cipher) => cipher.decrypt(at, payload),
        };
        opened.map_err(|_| "cipher: message authentication failed".to_owned())
    }
}

impl Cipher {
    pub(crate) fn gcm(key: &[u8]) -> Result<Self, String> {
        Ok(Self::Gcm(Box::new(Gcm::new(key)?)))
    }

    /// The key has one of AES's lengths.
    pub(crate) fn cbc(key: &[u8]) -> Result<Self, String> {
        if !matches!(key.len(), 16 | 24 | 32) {
            return Err(format!("crypto/aes: invalid key size {}", key.len()));
        }
        Ok(Self::Cbc(Zeroizing::new(key.to_vec())))
    }

    pub(crate) fn secretbox(key: &[u8]) -> Result<Self, String> {
        let made = XSalsa20Poly1305::new_from_slice(key);
        let made = made.map_err(|_| {
            format!("expected key size 32 for secretbox provider, got {}", key.len())
        })?;
        Ok(Self::Secretbox(Box::new(made)))
    }

    pub(crate) fn seeded(seed: &[u8]) -> Result<Self, String> {
        if seed.len() < SEED_BYTES {
            return Err(format!("invalid seed length {} used for key generation", seed.len()));
        }
        Ok(Self::Seeded(Prk::new_less_safe(HKDF_SHA256, seed)))
    }

    /// Encrypts. What the context is must be known again to decrypt, where the cipher can bind it.
    pub(crate) fn seal(
        &self,
        data: &[u8],
        context: &[u8],
        random: &dyn Random,
    ) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(gcm) => gcm.seal(data, context, random),
            Self::Cbc(key) => {
                let mut iv = [0; BLOCK_BYTES];
                random.fill(&mut iv);
                Ok([iv.as_slice(), &cbc_encrypt(key, &iv, data)?].concat())
            }
            Self::Secretbox(cipher) => {
                let mut nonce = [0; SECRETBOX_NONCE_BYTES];
                random.fill(&mut nonce);
                let sealed = cipher.encrypt(crypto_secretbox::Nonce::from_slice(&nonce), data);
                let sealed = sealed.map_err(|_| "the data is too long for secretbox".to_owned())?;
                Ok([nonce.as_slice(), &sealed].concat())
            }
            Self::Seeded(prk) => {
                let mut info = [0; SEED_BYTES];
                random.fill(&mut info);
                let sealed = derived(prk, &info)?.seal(data, context, random)?;
                Ok([info.as_slice(), &sealed].concat())
            }
        }
    }

    /// Decrypts.
    ///
    /// # Errors
    /// In upstream's words.
    pub(crate) fn open(&self, data: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(gcm) => gcm.open(data, context),
            Self::Cbc(key) => {
                let (iv, data) = data.split_at_checked(BLOCK_BYTES).ok_or(TOO_SHORT)?;
                if data.len() % BLOCK_BYTES != 0 {
                    return Err("the stored data is not a multiple of the block size".into());
                }
                unpadded(cbc_decrypt(key, iv, data)?)
            }
            Self::Secretbox(cipher) => {
                let (nonce, data) =
                    data.split_at_checked(SECRETBOX_NONCE_BYTES).ok_or(TOO_SHORT)?;
                let opened = cipher.decrypt(crypto_secretbox::Nonce::from_slice(nonce), data);
                opened.map_err(|_| "output array was not large enough for encryption".to_owned())
            }
            Self::Seeded(prk) => {
                let (info, data) = data.split_at_checked(SEED_BYTES).ok_or(TOO_SHORT)?;
                derived(prk, info)?.open(data, context)
            }
        }
    }
}

fn derived(prk: &Prk, info: &[u8]) -> Result<Gcm, String> {
    let mut key = Zeroizing::new([0; SEED_BYTES]);
    let info = [info];
    let filled = prk.expand(&info, Derived).and_then(|it| it.fill(key.as_mut_slice()));
    filled.map_err(|_| "failed to KDF expand seed with info".to_owned())?;
    Gcm::new(key.as_slice())
}

fn cbc_encrypt(key: &[u8], iv: &[u8], data: &[u8]) -> Result<Vec<u8>, String> {
    let bad = |_| format!("crypto/aes: invalid key size {}", key.len());
    Ok(match key.len() {
        16 => cbc::Encryptor::<Aes128>::new_from_slices(key, iv)
            .map_err(bad)?
            .encrypt_padded_vec_mut::<Pkcs7>(data),
        24 => cbc::Encryptor::<Aes192>::new_from_slices(key, iv)
            .map_err(bad)?
            .encrypt_padded_vec_mut::<Pkcs7>(data),
        _ => cbc::Encryptor::<Aes256>::new_from_slices(key, iv)
            .map_err(bad)?
            .encrypt_padded_vec_mut::<Pkcs7>(data),
    })
}

fn cbc_decrypt(key: &[u8], iv: &[u8], data: &[u8]) -> Result<Vec<u8>, String> {
    let bad = |_| format!("crypto/aes: invalid key size {}", key.len());
    let opened = match key.len() {
        16 => cbc::Decryptor::<Aes128>::new_from_slices(key, iv)
            .map_err(bad)?
            .decrypt_padded_vec_mut::<NoPadding>(data),
        24 => cbc::Decryptor::<Aes192>::new_from_slices(key, iv)
            .map_err(bad)?
            .decrypt_padded_vec_mut::<NoPadding>(data),
        _ => cbc::Decryptor::<Aes256>::new_from_slices(key, iv)
            .map_err(bad)?
            .decrypt_padded_vec_mut::<NoPadding>(data),
    };
    opened.map_err(|_| "the stored data is not a multiple of the block size".to_owned())
}

/// Takes PKCS#7 padding off.
fn unpadded(mut data: Vec<u8>) -> Result<Vec<u8>, String> {
    let padding = data.last().copied().unwrap_or_default();
    let size = usize::from(padding);
    if size == 0 || size > data.len() {
        return Err("invalid PKCS7 data (empty or not padded)".into());
    }
    let rest = data.len() - size;
    if data[rest..].iter().any(|it| *it != padding) {
        return Err("invalid padding on input".into());
    }
    data.truncate(rest);
    Ok(data)
}

#[cfg(test)]
mod tests {
    use component_base::SeededRandom;

    use super::*;

    fn ciphers(byte: u8) -> Vec<(&'static str, Cipher)> {
        vec![
            ("gcm 16", Cipher::gcm(&[byte; 16]).unwrap()),
            ("gcm 24", Cipher::gcm(&[byte; 24]).unwrap()),
            ("gcm 32", Cipher::gcm(&[byte; 32]).unwrap()),
            ("cbc 16", Cipher::cbc(&[byte; 16]).unwrap()),
            ("cbc 24", Cipher::cbc(&[byte; 24]).unwrap()),
            ("cbc 32", Cipher::cbc(&[byte; 32]).unwrap()),
            ("secretbox", Cipher::secretbox(&[byte; 32]).unwrap()),
            ("seeded", Cipher::seeded(&[byte; 32]).unwrap()),
        ]
    }

    #[test]
    fn what_was_sealed_is_opened_with_the_same_key_and_at_the_same_place() {
        let random = SeededRandom::new(1);
        for (name, cipher) in ciphers(1) {
            for length in [0, 1, 15, 16, 17, 1000] {
                let data = vec![b'd'; length];
                let sealed = cipher.seal(&data, b"/key", &random).unwrap();
                assert_eq!(cipher.open(&sealed, b"/key").unwrap(), data, "{name} {length}");
                let binds = name.starts_with("gcm") || name == "seeded";
                assert_eq!(cipher.open(&sealed, b"/other").is_err(), binds, "{name}");
            }
            let again = cipher.seal(b"x", b"", &random).unwrap();
            assert_ne!(cipher.seal(b"x", b"", &random).unwrap(), again, "{name}");
            assert_eq!(cipher.open(b"short", b"").unwrap_err(), TOO_SHORT, "{name}");
        }
    }

    #[test]
    fn another_key_and_damaged_data_are_told_in_upstreams_words() {
        let random = SeededRandom::new(1);
        let padding = ["invalid padding on input", "invalid PKCS7 data (empty or not padded)"];
        let box_words = ["output array was not large enough for encryption"; 2];
        let gcm_words = ["cipher: message authentication failed"; 2];
        for ((name, one), (_, other)) in ciphers(1).into_iter().zip(ciphers(2)) {
            let sealed = one.seal(&[b'd'; 40], b"", &random).unwrap();
            let words = match name.split(' ').next() {
                Some("cbc") => padding,
                Some("secretbox") => box_words,
                _ => gcm_words,
            };
            let error = other.open(&sealed, b"").unwrap_err();
            assert!(words.contains(&error.as_str()), "{name}: {error}");
        }
        let cbc = Cipher::cbc(&[1; 16]).unwrap();
        let error = cbc.open(&[0; 17], b"").unwrap_err();
        assert_eq!(error, "the stored data is not a multiple of the block size");
    }

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text.replace([' ', '\n'], "")).unwrap()
    }

    /// Vectors of others: what they sealed is opened here.
    #[test]
    fn others_sealed_it() {
        // Test case 16 of the proposal of GCM: AES-256 with additional data.
        let gcm =
            Cipher::gcm(&bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"))
                .unwrap();
        let sealed = bytes(
            "cafebabefacedbaddecaf888 522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662 76fc6ece0f4e1768cddf8853bb2d551b",
        );
        let context = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = bytes(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        assert_eq!(gcm.open(&sealed, &context).unwrap(), plain);
        // F.2.5 of SP 800-38A: CBC with AES-256, whose first two blocks end in no padding.
        let key = bytes("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let iv = bytes("000102030405060708090a0b0c0d0e0f");
        let sealed = bytes("f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d");
        let plain = bytes("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        assert_eq!(cbc_decrypt(&key, &iv, &sealed).unwrap(), plain);
        // NaCl's own test of secretbox.
        let key = bytes("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let secretbox = Cipher::secretbox(&key).unwrap();
        let sealed = bytes(
            "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37
             f3ffc7703f9400e52a7dfb4b3d3305d9 8e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a
             c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae
             90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74
             e355a5",
        );
        let plain = secretbox.open(&sealed, b"").unwrap();
        assert_eq!(plain[..16], bytes("be075fc53c81f2d5cf141316ebeb0c7b"));
        assert_eq!(plain.len(), 131);
        // RFC 5869 has no case without extraction; its first one's pseudorandom key expands to this.
        let prk = Prk::new_less_safe(
            HKDF_SHA256,
            &bytes("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"),
        );
        let mut out = [0; SEED_BYTES];
        let info = bytes("f0f1f2f3f4f5f6f7f8f9");
        prk.expand(&[&info], Derived).unwrap().fill(&mut out).unwrap();
        assert_eq!(
            out.to_vec(),
            bytes("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf")
        );
    }
}
