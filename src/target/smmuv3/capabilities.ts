import type { Capability } from '../capability.ts';

/** A field of an ID register, 6.3.1 to 6.3.6. */
export interface SmmuCapability extends Capability {
  readonly register: 'IDR0' | 'IDR1' | 'IDR3' | 'IDR5';
  readonly low: number;
  readonly width: number;
  readonly value: number;
  /** What an embedder can have instead. */
  readonly allowed: readonly number[];
}

type Register = SmmuCapability['register'];
const SECTION: Readonly<Record<Register, string>> = { IDR0: '6.3.1', IDR1: '6.3.2', IDR3: '6.3.4', IDR5: '6.3.6' };
const upTo = (most: number) => Array.from({ length: most + 1 }, (_, value) => value);

/** `allowed`: all values, or the highest of 0 to it. Left out: 0 to the default. */
function field<Name extends string>(
  name: Name,
  [register, low, width]: readonly [Register, number, number],
  value: number,
  reason: string,
  allowed: number | readonly number[] = value,
): SmmuCapability & { readonly name: Name } {
  const values = typeof allowed === 'number' ? upTo(allowed) : allowed;
  return { name, section: SECTION[register], register, low, width, value, reason, allowed: values };
}

/** Every field that is not reserved, and why it has its value. */
export const CAPABILITIES = [
  field('S2P', ['IDR0', 0, 1], 1, 'stage 2'),
  field('S1P', ['IDR0', 1, 1], 1, 'stage 1'),
  field('TTF', ['IDR0', 2, 2], 2, 'AArch64 tables; no device driver uses AArch32 ones', [2]),
  field('COHACC', ['IDR0', 4, 1], 1, 'structures are read as the guest’s processors see them'),
  field('BTM', ['IDR0', 5, 1], 0, 'no broadcasts of processors reach an emulated unit'),
  field('HTTU', ['IDR0', 6, 2], 2, 'Access flag and dirty state; not in table descriptors'),
  field('DORMHINT', ['IDR0', 8, 1], 0, 'nothing is powered down'),
  field('Hyp', ['IDR0', 9, 1], 1, 'EL2 and EL2-E2H stream worlds; mandatory from SMMUv3.2 on with both stages'),
  field('ATS', ['IDR0', 10, 1], 1, 'translation requests of devices'),
  field('NS1ATS', ['IDR0', 11, 1], 0, 'split-stage ATS is there', 1),
  field('ASID16', ['IDR0', 12, 1], 1, '16-bit ASIDs'),
  field('MSI', ['IDR0', 13, 1], 1, 'where the embedder takes message writes'),
  field('SEV', ['IDR0', 14, 1], 0, 'no wake-up events to processors'),
  field('ATOS', ['IDR0', 15, 1], 1, 'address translation operations'),
  field('PRI', ['IDR0', 16, 1], 1, 'page requests of devices'),
  field('VMW', ['IDR0', 17, 1], 1, 'VMID wildcards'),
  field('VMID16', ['IDR0', 18, 1], 1, '16-bit VMIDs'),
  field('CD2L', ['IDR0', 19, 1], 1, 'two-level tables of context descriptors'),
  field(
    'VATOS',
    ['IDR0', 20, 1],
    0,
    'where the embedder has room for a third page: address translation operations for a guest of the guest',
    1,
  ),
  field('TTENDIAN', ['IDR0', 21, 2], 0, 'tables of either endianness', [0, 2, 3]),
  field('ATSRECERR', ['IDR0', 23, 1], 1, 'configuration errors of ATS requests can be recorded'),
  field('STALL_MODEL', ['IDR0', 24, 2], 0, 'stall and terminate, where the embedder takes ends of stalls; 1 elsewhere', [0, 1, 2]),
  field('TERM_MODEL', ['IDR0', 26, 1], 0, 'CD.A chooses between abort and RAZ/WI', 1),
  field('ST_LEVEL', ['IDR0', 27, 2], 1, 'two-level stream tables'),
  field('RME_IMPL', ['IDR0', 30, 1], 0, 'no realms'),
  field('SIDSIZE', ['IDR1', 0, 6], 16, 'the requester IDs of one PCI segment', 24),
  field('SSIDSIZE', ['IDR1', 6, 5], 20, 'every PASID'),
  field('PRIQS', ['IDR1', 11, 5], 14, '16,384 page requests', 19),
  field('EVENTQS', ['IDR1', 16, 5], 14, '16,384 events', 19),
  field('CMDQS', ['IDR1', 21, 5], 14, 'a full queue is what one register access carries out', 14),
  field('ATTR_PERMS_OVR', ['IDR1', 26, 1], 1, 'PRIVCFG and INSTCFG'),
  field('ATTR_TYPES_OVR', ['IDR1', 27, 1], 1, 'memory types are stored and make no difference to an emulated device'),
  field('REL', ['IDR1', 28, 1], 0, 'no base address is preset'),
  field('QUEUES_PRESET', ['IDR1', 29, 1], 0, 'the guest says where its queues are'),
  field('TABLES_PRESET', ['IDR1', 30, 1], 0, 'the guest says where its stream table is'),
  field('ECMDQ', ['IDR1', 31, 1], 0, 'one command queue is enough for one thread'),
  field('HAD', ['IDR3', 2, 1], 1, 'hierarchical permissions can be turned off; mandatory from SMMUv3.1 on', [1]),
  field('PBHA', ['IDR3', 3, 1], 0, 'no page-based hardware attributes'),
  field('XNX', ['IDR3', 4, 1], 1, 'execute-never by privilege at stage 2; mandatory from SMMUv3.1 on'),
  field('PPS', ['IDR3', 5, 1], 0, 'STE.PPAR says whether automatic responses carry a PASID', 1),
  field('MPAM', ['IDR3', 7, 1], 0, 'no partitioning of memory systems'),
  field('FWB', ['IDR3', 8, 1], 1, 'stage 2 memory types are stored and make no difference'),
  field('STT', ['IDR3', 9, 1], 1, 'small translation tables'),
  field('RIL', ['IDR3', 10, 1], 1, 'invalidations of ranges'),
  field('BBML', ['IDR3', 11, 2], 2, 'a table may change its sizes without break before make: each access walks one state of it'),
  field('E0PD', ['IDR3', 13, 1], 1, 'unprivileged accesses kept off a table'),
  field('PTWNNC', ['IDR3', 14, 1], 1, 'tables in memory of any type can be read'),
  field('DPT', ['IDR3', 15, 1], 0, 'no device permission tables'),
  field('PASIDTT', ['IDR3', 16, 1], 0, 'translated requests carry no PASID'),
  field('EPAN', ['IDR3', 17, 1], 0, 'where the embedder wants it, PAN may ask for execution too', 1),
  field('S1PI', ['IDR3', 18, 1], 0, 'no permission indirection'),
  field('S2PI', ['IDR3', 19, 1], 0, 'no permission indirection'),
  field('S2PO', ['IDR3', 20, 1], 0, 'no permission overlays'),
  field('THE', ['IDR3', 21, 1], 0, 'no translation hardening'),
  field('MTEPERM', ['IDR3', 22, 1], 0, 'emulated devices have no allocation tags'),
  field('AIE', ['IDR3', 23, 1], 0, 'eight memory types, of which none makes a difference'),
  field('OAS', ['IDR5', 0, 3], 6, '52 bits', 6),
  field('GRAN4K', ['IDR5', 4, 1], 1, '4K granule'),
  field('GRAN16K', ['IDR5', 5, 1], 1, '16K granule'),
  field('GRAN64K', ['IDR5', 6, 1], 1, '64K granule'),
  field('DS', ['IDR5', 7, 1], 1, '52-bit addresses with 4K and 16K granules'),
  field('D128', ['IDR5', 8, 1], 0, 'no 128-bit descriptors'),
  field('VAX', ['IDR5', 10, 2], 1, '52-bit input of stage 1'),
  field('STALL_MAX', ['IDR5', 16, 16], 64, 'stalls under way at most', 0xffff),
] as const;

export type FeatureName = (typeof CAPABILITIES)[number]['name'];
/** Every field's value. */
export type Features = Readonly<Record<FeatureName, number>>;

/**
 * The fields as an embedder wants them, and what is RES0 then: see each field in 6.3.
 * @throws RangeError for a name or value that there is not.
 */
export function featuresOf(wanted: Partial<Features>): Features {
  const features = Object.fromEntries(CAPABILITIES.map(({ name, value }) => [name, value])) as Record<FeatureName, number>;
  for (const [name, value] of Object.entries(wanted)) {
    const row: SmmuCapability | undefined = CAPABILITIES.find((capability) => capability.name === name);
    if (row === undefined) throw new RangeError(`Smmuv3: features: there is no field ${name}`);
    if (value === undefined || !row.allowed.includes(value)) throw new RangeError(`Smmuv3: features: ${name} cannot be ${value}`);
    features[name as FeatureName] = value;
  }
  const { S1P, S2P } = features;
  if (S1P === 0 && S2P === 0) throw new RangeError('Smmuv3: features: S1P and S2P are both 0');
  const without = (...names: FeatureName[]) => {
    for (const name of names) features[name] = 0;
  };
  const { ST_LEVEL, SIDSIZE, OAS, GRAN4K, GRAN16K, GRAN64K, DS } = features;
  // Tables with 52-bit addresses.
  const isWide = GRAN64K === 1 || (DS === 1 && (GRAN4K === 1 || GRAN16K === 1));
  if (GRAN4K === 0 && GRAN16K === 0 && GRAN64K === 0) throw new RangeError('Smmuv3: features: there is no granule');
  if (SIDSIZE >= 7 && ST_LEVEL === 0) throw new RangeError(`Smmuv3: features: SIDSIZE ${SIDSIZE} needs ST_LEVEL 1`);
  if (OAS >= 6 && !isWide) throw new RangeError('Smmuv3: features: OAS 6 needs GRAN64K or DS');
  if (S1P === 0 || S2P === 0) without('Hyp', 'NS1ATS', 'VATOS');
  if (features.ATOS === 0) without('VATOS');
  if (S2P === 0) without('VMW', 'VMID16', 'XNX', 'FWB', 'PTWNNC');
  if (S1P === 0) without('HAD', 'E0PD', 'SSIDSIZE', 'CD2L');
  if (features.ATS === 0) without('PRI', 'NS1ATS', 'ATSRECERR');
  if (features.PRI === 0 || features.SSIDSIZE === 0) without('PPS');
  if (features.STALL_MODEL === 1) without('STALL_MAX');
  if (GRAN4K === 0 && GRAN16K === 0) without('DS');
  if (features.DS === 1) features.VAX = 1;
  if (!isWide) without('VAX');
  return features;
}

/** AIDR, 6.3.8: the last version of SMMUv3 whose mandatory features are all there (6.3.1, 6.3.4). */
export function architectureOf({ S1P, S2P, Hyp, HAD, XNX, FWB, RIL, BBML }: Features): number {
  const is31 = (S1P === 0 || HAD === 1) && (S2P === 0 || XNX === 1);
  const is32 = (S1P === 0 || S2P === 0 || Hyp === 1) && (S2P === 0 || FWB === 1) && RIL === 1 && BBML > 0;
  return is31 ? (is32 ? 2 : 1) : 0;
}

/** An ID register's value. */
export function registerOf(register: Register, features: Features): number {
  return CAPABILITIES.reduce((value, row) => (row.register === register ? value | (features[row.name] << row.low) : value), 0);
}

const OUTPUT_BITS = [32, 36, 40, 42, 44, 48, 52, 52] as const;

/** What CD.IPS, STE.S2PS and IDR5.OAS say, in bits; what an SMMUv3.2 does not have is 52 (5.4, IPS). */
export function sizeOf(code: number): number {
  return OUTPUT_BITS[code];
}

/** lg2 of the bytes of the smallest granule that there is (6.3.6). */
export function smallestGranule({ GRAN4K, GRAN16K }: Features): number {
  return GRAN4K === 1 ? 12 : GRAN16K === 1 ? 14 : 16;
}
