/** The package's `exports` map names no types; these are the ones that it ships. */
declare module 'binary-parser' {
  export * from 'binary-parser/dist/binary_parser.js';
}
