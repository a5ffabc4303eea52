//! Which system calls a container may make: profiles, and the filters they become.

mod compile;
mod default;
mod profile;

use base64::Engine;
use sys::process::FilterInstruction;

use compile::compile;
use profile::Profile;

/// The filters of `RuntimeDefault` for a container with these capabilities.
pub(crate) fn default_filters(capabilities: u64) -> Vec<String> {
    let profile = default::profile(capabilities);
    let program = compile(&profile).expect("because the default profile is far below the limit");
    vec![encode(&program)]
}

/// The filters of a profile in JSON.
///
/// # Errors
/// When it is not a profile, or asks for what is not supported.
pub(crate) fn profile_filters(text: &[u8], capabilities: u64) -> Result<Vec<String>, String> {
    let profile = Profile::parse(text, capabilities)?;
    Ok(vec![encode(&compile(&profile)?)])
}

fn encode(program: &[FilterInstruction]) -> String {
    let bytes: Vec<u8> = program
        .iter()
        .flat_map(|i| {
            let [c0, c1] = i.code.to_le_bytes();
            let [k0, k1, k2, k3] = i.k.to_le_bytes();
            [c0, c1, i.jt, i.jf, k0, k1, k2, k3]
        })
        .collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
