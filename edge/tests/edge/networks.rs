//! Tables of networks in MaxMind's form, version 2.0 of the format.

/// The field that tells data centres.
pub(crate) const NUMBER: &str = "autonomous_system_number";

/// What a node of the tree says for the next bit.
#[derive(Clone, Copy)]
enum Next {
    Nothing,
    Node(usize),
    Number(u32),
}

/// A table that knows a number of some IPv4 addresses, under this key.
pub(crate) fn table(known: &[([u8; 4], u32)], key: &str) -> Vec<u8> {
    table_of(known, |data, number| {
        data.push(0xe1);
        text(data, key);
        uint32(data, number);
    })
}

/// The same of numbers that fit into sixteen bits, as some writers have them then.
pub(crate) fn narrow_table(known: &[([u8; 4], u32)], key: &str) -> Vec<u8> {
    table_of(known, |data, number| {
        data.push(0xe1);
        text(data, key);
        data.push(0xa2);
        data.extend(u16::try_from(number).unwrap().to_be_bytes());
    })
}

/// A table that knows the countries of some IPv4 addresses.
pub(crate) fn countries(known: &[([u8; 4], &str)]) -> Vec<u8> {
    let names: Vec<_> = known.iter().map(|(_, name)| *name).collect();
    let known: Vec<_> = (0..).zip(known).map(|(n, (address, _))| (*address, n)).collect();
    table_of(&known, |data, n| {
        data.push(0xe1);
        text(data, "country");
        data.push(0xe1);
        text(data, "iso_code");
        text(data, names[n as usize]);
    })
}

fn table_of(known: &[([u8; 4], u32)], entry: impl Fn(&mut Vec<u8>, u32)) -> Vec<u8> {
    let tree = tree(known);
    let nodes = u32::try_from(tree.len()).unwrap();
    let (mut out, mut data) = (Vec::new(), Vec::new());
    for next in tree.as_flattened() {
        let record = match next {
            Next::Nothing => nodes,
            Next::Node(at) => u32::try_from(*at).unwrap(),
            Next::Number(number) => {
                // The data begins 16 behind the number of nodes.
                let at = nodes + 16 + u32::try_from(data.len()).unwrap();
                entry(&mut data, *number);
                at
            }
        };
        out.extend(&record.to_be_bytes()[1..]);
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    of_itself(&mut out, nodes);
    out
}

/// A node for each bit of each address.
fn tree(known: &[([u8; 4], u32)]) -> Vec<[Next; 2]> {
    let mut tree = vec![[Next::Nothing; 2]];
    for (address, number) in known {
        let address = u32::from_be_bytes(*address);
        let side = |bit: u32| (address >> bit & 1) as usize;
        let mut at = 0;
        for bit in (1..32).rev() {
            at = match tree[at][side(bit)] {
                Next::Node(next) => next,
                _ => {
                    tree.push([Next::Nothing; 2]);
                    tree[at][side(bit)] = Next::Node(tree.len() - 1);
                    tree.len() - 1
                }
            };
        }
        tree[at][side(0)] = Next::Number(*number);
    }
    tree
}

/// What a table says of itself, in nine fields; 16 bits are a type of their own, and an empty list and
/// 0 of 64 bits are two bytes.
fn of_itself(out: &mut Vec<u8>, nodes: u32) {
    out.push(0xe9);
    text(out, "node_count");
    uint32(out, nodes);
    let shorts = [
        ("record_size", 24),
        ("ip_version", 4),
        ("binary_format_major_version", 2),
        ("binary_format_minor_version", 0),
    ];
    for (key, number) in shorts {
        text(out, key);
        out.extend([0xa2, 0, number]);
    }
    for (key, empty) in
        [("build_epoch", &[0, 2][..]), ("languages", &[0, 4]), ("description", &[0xe0])]
    {
        text(out, key);
        out.extend(empty);
    }
    text(out, "database_type");
    text(out, "Test");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(0x40 | text.len() as u8);
    out.extend(text.as_bytes());
}

fn uint32(out: &mut Vec<u8>, number: u32) {
    out.push(0xc4);
    out.extend(number.to_be_bytes());
}
