//! Files of others are as their packages have them: the note beside each says which package, and its SHA-256.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Where minified files are, and where their note is.
const FOLDERS: [(&str, &str); 3] = [
    ("api/src/graphql/assets", "api/src/graphql/graphiql.rs"),
    ("api/src/ops/assets", "api/src/ops/assets.rs"),
    ("tests/axe", "tests/axe/README.md"),
];

#[test]
fn minified_files_are_as_published() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for (folder, note) in FOLDERS {
        let note = std::fs::read_to_string(root.join(note)).unwrap();
        let mut found = 0;
        for file in std::fs::read_dir(root.join(folder)).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            if !name.contains(".min.") {
                continue;
            }
            found += 1;
            let digest = Sha256::digest(std::fs::read(file.path()).unwrap());
            let hex = digest.iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            assert!(
                note.contains(&format!("- `{name}` {hex}\n")),
                "{folder}/{name} is {hex}"
            );
        }
        assert!(found > 0, "nothing minified in {folder}");
    }
}
