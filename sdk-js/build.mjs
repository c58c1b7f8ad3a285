// Builds sdk-js/dist/ from the loader and the Wasm core, and fails when a file is too large.
//
//   node sdk-js/build.mjs CORE        CORE: the folder that wasm-bindgen has written core.js into
//   node sdk-js/build.mjs --loader    the loader alone, which needs no Rust
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { minify } from "terser";

const room = dirname(fileURLToPath(import.meta.url));
const dist = join(room, "dist");
/** The most bytes of each file, gzipped. Every page waits for the loader, none for the core. */
const BYTES_MAX = { "countersign.js": 3_000, "index.js": 3_000, "core_bg.wasm": 15_000 };

/** esbuild joins the files; terser then makes the result a tenth smaller than esbuild does. */
async function bundle(entry, outfile, format, alias = {}) {
  const { outputFiles } = await build({
    entryPoints: [join(room, entry)],
    outfile: join(dist, outfile),
    bundle: true,
    minify: true,
    write: false,
    format,
    target: "es2022",
    // Properties that end with _ are internal to the loader.
    mangleProps: /_$/,
    alias,
    legalComments: "none",
  });
  let { code } = await minify(outputFiles[0].text, {
    ecma: 2022,
    module: format === "esm",
    toplevel: true,
    compress: { passes: 4, pure_getters: true, unsafe_arrows: true, keep_fargs: false },
  });
  // Tells bundlers to leave the import of the core alone. Neither tool above keeps such comments.
  if (format === "esm" && code.includes("import("))
    code = code.replace(/\bimport\((?=\w+\))/, "import(/*@vite-ignore*//*webpackIgnore:true*/");
  writeFileSync(join(dist, outfile), code);
}

function wasm(core) {
  // The module's own file, for npm's wrapper in .bin does not run on Windows.
  const opt = join(dirname(createRequire(import.meta.url).resolve("binaryen/package.json")), "bin", "wasm-opt");
  const features = ["bulk-memory", "nontrapping-float-to-int", "sign-ext", "mutable-globals", "multivalue", "reference-types"];
  const flags = ["-Oz", ...features.map((name) => `--enable-${name}`), "--strip-debug", "--strip-producers"];
  const [from, to] = [join(core, "core_bg.wasm"), join(dist, "core_bg.wasm")];
  execFileSync(process.execPath, [opt, from, ...flags, "-o", to], { stdio: "inherit" });
}

const core = process.argv[2];
if (!core) throw new Error("which folder? see the head of this file");
rmSync(dist, { recursive: true, force: true });
mkdirSync(dist);
await bundle("loader/tag.ts", "countersign.js", "iife");
await bundle("loader/index.ts", "index.js", "esm");
await bundle("loader/markup.ts", "markup.js", "esm");
if (core !== "--loader") {
  await bundle("loader/core.ts", "core.js", "esm", { "wasm-core": join(core, "core.js") });
  wasm(core);
}
copyFileSync(join(room, "../LICENSE"), join(dist, "LICENSE"));

let isGood = true;
for (const name of ["countersign.js", "index.js", "markup.js", "core.js", "core_bg.wasm"]) {
  if (core === "--loader" && name.startsWith("core")) continue;
  const bytes = readFileSync(join(dist, name));
  const [gzipped, most] = [gzipSync(bytes, { level: 9 }).length, BYTES_MAX[name] ?? Infinity];
  isGood &&= gzipped <= most;
  const bound = most === Infinity ? "" : gzipped <= most ? `, may have ${most}` : `: TOO LARGE, may have ${most}`;
  console.log(`${name}: ${bytes.length} bytes, ${gzipped} gzipped${bound}`);
}
process.exitCode = isGood ? 0 : 1;
