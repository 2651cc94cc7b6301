/** Lines of the recording where the model's caches and the device's may differ, each with the reason. */
interface Excuse {
  /** Closed range of lines. */
  readonly first: number;
  readonly last: number;
  readonly reason: string;
  /** Fault records that the model wrote there and the device did not: the replay goes on as if it had. */
  readonly faults?: number;
}

const EXCUSES: readonly Excuse[] = [
  {
    first: 6910,
    last: 6910,
    reason:
      'In-memory queue interface, IOTINVAL: "entries may generally be invalidated from the address translation cache at any time". ' +
      'The test switched capabilities.Svrsw60t59b on behind the interface; the device under test was restarted for it, walks, and sets A.',
  },
  {
    first: 7216,
    last: 7219,
    reason:
      'In-memory queue interface, IOTINVAL: "if a leaf PTE is modified but a subsuming IOTINVAL is not executed, either the old translation or ' +
      'the new translation will be used". The PTE gained W; the model faults from its cached copy, the device looks the tables up again.',
    faults: 1,
  },
];

export function excuseAt(line: number): Excuse | null {
  return EXCUSES.find(({ first, last }) => line >= first && line <= last) ?? null;
}
