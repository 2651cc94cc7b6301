/** Bytes of a saved state, in hexadecimal. */
export function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

/** Whether it is `hexOf` of so many bytes. */
export function isHexOf(text: unknown, bytes: number): text is string {
  return typeof text === 'string' && text.length === 2 * bytes && /^[0-9a-f]*$/.test(text);
}

export function bytesOfHex(text: string): Uint8Array {
  return Buffer.from(text, 'hex');
}
