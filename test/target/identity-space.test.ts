import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { IdentitySpace } from '../../src/target/identity-space.ts';

describe('IdentitySpace', () => {
  test.each([
    { gpa: 0n, bytes: 0x20000, hostAddress: 0x7f00_0001_0000n, lg2: 16 },
    { gpa: 0n, bytes: 0x21000, hostAddress: 0x7f00_0001_0000n, lg2: 12 },
    { gpa: 0n, bytes: 0x20000, hostAddress: 0x7f00_0001_2000n, lg2: 13 },
    { gpa: 0x4000n, bytes: 0x20000, hostAddress: 0x7f00_0001_0000n, lg2: 14 },
  ])('bypass of RAM that is aligned to 2^$lg2 needs no smaller host pages', ({ gpa, bytes, hostAddress, lg2 }) => {
    const memory = new GuestMemory([{ gpa, buffer: new ArrayBuffer(bytes), hostAddress }]);
    expect(new IdentitySpace(memory).granuleLg2).toBe(lg2);
  });
});
