/** One step on both sides, and all that can be seen of it. */
export interface Observation {
  readonly what: string;
  /** The device-context at that moment. */
  readonly context: readonly bigint[];
  /** Fault records of the step: [word 0, iotval, iotval2]. */
  readonly faults: { readonly ours: readonly (readonly bigint[])[]; readonly theirs: readonly (readonly bigint[])[] };
  readonly registers: { readonly ours: readonly bigint[]; readonly theirs: readonly bigint[] };
}

interface DeviceDifference {
  readonly section: string;
  readonly what: string;
  explains(observation: Observation): boolean;
}

/** cqcsr among the registers, and its bit cmd_ill. */
const CQCSR = 1;
const CMD_ILL = 0x400n;

const DIFFERENCES: readonly DeviceDifference[] = [
  {
    section: 'IOMMU, "Fault/Event-Queue": iotval2 holds the guest-physical address of a guest-page fault, otherwise nothing',
    what: 'QEMU puts the IOVA into iotval2 of page faults, and 0 where a guest-physical address is too wide',
    explains: ({ faults, registers }) => {
      const withoutIotval2 = (records: Observation['faults']['ours']) => records.flatMap((record) => record.slice(0, 2));
      return equal(withoutIotval2(faults.ours), withoutIotval2(faults.theirs)) && equal(registers.ours, registers.theirs);
    },
  },
  {
    section:
      'IOMMU, "Command-Queue": "A command is determined to be illegal if it uses a reserved encoding or if a reserved bit is set to 1"',
    what: 'QEMU ignores reserved bits of commands, and how wide PID and DID are',
    explains: ({ what, faults, registers }) => {
      const [, low, high] = /^command 0x(\w+) 0x(\w+)$/.exec(what) ?? [];
      if (low === undefined || faults.ours.length + faults.theirs.length > 0) return false;
      const onlyOurs = (registers.ours[CQCSR] & CMD_ILL) !== 0n && (registers.theirs[CQCSR] & CMD_ILL) === 0n;
      return onlyOurs && hasReserved(BigInt(`0x${low}`), BigInt(`0x${high}`));
    },
  },
  {
    section: 'IOMMU, "Device-context configuration checks", 18: capabilities.AMO_HWAD is 0 and SADE or GADE is 1',
    what: 'QEMU takes SADE and GADE without AMO_HWAD',
    explains: (observation) => onlyOursIsMisconfigured(observation) && (observation.context[0] & 0x180n) !== 0n,
  },
  {
    section: 'IOMMU, "Device-context configuration checks", 8: PDTV is 1 and pdtp.MODE is not a supported mode',
    what: 'QEMU takes any pdtp.MODE',
    explains: (observation) => {
      const [tc, , , fsc] = observation.context;
      return onlyOursIsMisconfigured(observation) && (tc & 0x20n) !== 0n && fsc >> 60n > 1n;
    },
  },
  {
    section: 'IOMMU, "Device-context configuration checks", 1 and 22: reserved bits; RCID and MCID without capabilities.QOSID',
    what: 'QEMU takes reserved bits of ta, fsc, msi_addr_mask, msi_addr_pattern and the last doubleword',
    explains: (observation) => {
      const [, , ta, fsc, , mask, pattern, last] = observation.context;
      const reserved = (ta & ~0xffff_f000n) | ((fsc >> 44n) & 0xffffn) | (mask >> 52n) | (pattern >> 52n) | last;
      return onlyOursIsMisconfigured(observation) && reserved !== 0n;
    },
  },
  {
    section: 'IOMMU, "Device-context configuration checks", 9, 13: a MODE that is not valid is "DDT entry misconfigured" (cause 259)',
    what: 'QEMU reports cause 258 for a MODE that it does not know',
    explains: (observation) => onlyOursIsMisconfigured(observation) && observation.faults.theirs.some(([word]) => (word & 0xfffn) === 258n),
  },
  {
    section: 'IOMMU, "Device-context configuration checks": iohgatp Bare with msiptp not Off, recommended to be cause 259',
    what: 'QEMU takes msiptp Flat without a second stage',
    explains: (observation) =>
      onlyOursIsMisconfigured(observation) && observation.context[4] >> 60n === 1n && observation.context[1] >> 60n === 0n,
  },
  {
    section: 'IOMMU, "Process to translate addresses of MSIs": cause 261, with the transaction that met it',
    what: "QEMU's records of MSI faults have another cause, and not the device's number",
    explains: ({ context, faults, registers }) => {
      const [ours] = faults.ours;
      const isMsi = ours !== undefined && [261n, 262n, 263n].includes(ours[0] & 0xfffn);
      return context[4] >> 60n === 1n && isMsi && equal(registers.ours, registers.theirs);
    },
  },
  {
    section: 'Privileged Architecture, 11.4.1, and IOMMU, "Translation control": an IOVA wider than the first stage takes is a page fault',
    what: 'QEMU reports a guest-page fault for an IOVA too wide for Sv32, or for a first stage behind a second',
    explains: ({ context, faults, registers }) => {
      const causes = (records: Observation['faults']['ours']) => records.map(([word]) => word & 0xfffn);
      const tooWide = equal(causes(faults.ours), [15n]) && equal(causes(faults.theirs), [23n]) && faults.ours[0][1] >> 32n !== 0n;
      const either = (context[0] & 0x800n) !== 0n || context[1] >> 60n !== 0n;
      return either && tooWide && equal(registers.ours, registers.theirs);
    },
  },
  {
    section: 'IOMMU, "Fault/Event-Queue": "If PV is 0, then PID and PRIV are 0": PV tells of a transaction with a process_id',
    what: 'QEMU records PV 1 for requests without process_id where PDTV is 1',
    explains: ({ context, faults, registers }) => {
      const withoutPv = (records: Observation['faults']['ours']) => records.map(([word]) => word & ~(1n << 32n));
      return (
        (context[0] & 0x20n) !== 0n && equal(withoutPv(faults.ours), withoutPv(faults.theirs)) && equal(registers.ours, registers.theirs)
      );
    },
  },
];

const DDT_MISCONFIGURED = 259n;

/** Ours records "DDT entry misconfigured", QEMU something else or nothing. */
function onlyOursIsMisconfigured({ faults }: Observation): boolean {
  const isMisconfigured = ([word]: readonly bigint[]) => (word & 0xfffn) === DDT_MISCONFIGURED;
  return faults.ours.length === 1 && isMisconfigured(faults.ours[0]) && !faults.theirs.some(isMisconfigured);
}

/** "IOMMU commands": reserved bits of the commands that QEMU knows; NL and S, which it does not have, among them. */
function hasReserved(low: bigint, high: bigint): boolean {
  switch (Number(low & 0x3ffn)) {
    case 1:
    case 1 | (1 << 7):
      return (low & 0xf000_0ffc_0000_0800n) !== 0n || (high & 0xc000_0000_0000_03ffn) !== 0n;
    case 2:
      return (low & 0xffff_c000n) !== 0n || high >> 62n !== 0n;
    // DID "must not be wider than that supported by the ddtp.iommu_mode": 6 bits, with DV.
    case 3:
      return (low & 0xfd_ffff_fc00n) !== 0n || high !== 0n || low >> 46n !== 0n;
    case 3 | (1 << 7):
      // PID "must not be wider than the width supported by the IOMMU": 8 bits.
      if (low >> 46n !== 0n) return true;
      return (low & 0xfd_0000_0c00n) !== 0n || high !== 0n || ((low >> 12n) & 0xf_ff00n) !== 0n;
    default:
      return false;
  }
}

/** `same`, what explains the difference, or null. */
export function deviceDifference(observation: Observation): string | null {
  if (isSame(observation)) return 'same';
  return DIFFERENCES.find((known) => known.explains(observation))?.what ?? null;
}

function isSame({ what, faults, registers }: Observation): boolean {
  const [, ours, theirs] = /ours (\w+), QEMU (\w+)/.exec(what) ?? [];
  return ours === theirs && equal(faults.ours.flat(), faults.theirs.flat()) && equal(registers.ours, registers.theirs);
}

function equal(left: readonly bigint[], right: readonly bigint[]): boolean {
  return left.length === right.length && left.every((value, i) => value === right[i]);
}
