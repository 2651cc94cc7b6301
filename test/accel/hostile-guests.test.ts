import { REG } from '../../src/target/smmuv3/spec/registers.ts';
import { CONFIG } from '../../src/target/smmuv3/spec/ste.ts';
import { H_PUT_TCE } from '../../src/target/spapr/index.ts';
import * as amd from '../target/amd/guest.ts';
import { amdSubject } from '../target/amd/subject.ts';
import * as riscv from '../target/riscv/guest.ts';
import { riscvSubject } from '../target/riscv/subject.ts';
import * as smmu from '../target/smmuv3/guest.ts';
import { smmuSubject } from '../target/smmuv3/subject.ts';
import { spaprSubject } from '../target/spapr/subject.ts';
import type { TargetFixture, TargetSubject } from '../target/suite.ts';
import { attach, map } from '../target/virtio-iommu/requests.ts';
import { virtioSubjects } from '../target/virtio-iommu/subject.ts';
import * as vtd from '../target/vtd/guest.ts';
import { legacySubject, scalableSubject } from '../target/vtd/subject.ts';
import { FIRST, PAGES, type Guest as ZpciGuest } from '../target/zpci/guest.ts';
import { zpciSubject } from '../target/zpci/subject.ts';
import { type HostileSubject, hostileGuest } from './hostile-guests.ts';

type HostileOf<Subject> = Subject extends TargetSubject<infer Step> ? HostileSubject<Step> : never;

/** The driver of a fixture that has one. */
function guestOf<Guest>(fixture: TargetFixture<never>): Guest {
  return (fixture as unknown as { readonly guest: Guest }).guest;
}

/** Nothing forgets the first stages of all virtual machines: IOTINVAL.VMA names the GSCID of one. */
const riscvGuest: HostileOf<typeof riscvSubject> = {
  subject: riscvSubject,
  start: (fixture) => {
    const guest = guestOf<riscv.Guest>(fixture);
    for (const csr of [riscv.Reg.cqcsr, riscv.Reg.fqcsr, riscv.Reg.pqcsr]) {
      guest.iommu.write(csr, 4, 0xff00n);
      guest.iommu.write(csr, 4, 0n);
    }
    guest.iommu.write(riscv.Reg.cqt, 4, 0n);
    guest.start();
  },
  apart: [
    { do: 'endpoint', there: true },
    ...[8, 16].map((device, first) => ({ do: 'context', device, first, second: 0, valid: true, tc: 0 }) as const),
    { do: 'map', table: 0, pfn: 5, to: 300, pages: 4, permission: 7, flush: 'all' },
    { do: 'map', table: 1, pfn: 7, to: 400, pages: 16, permission: 7, flush: 'all' },
  ],
  forget: () => false,
};

/** Both devices have a process directory. */
const riscvProcesses: HostileOf<typeof riscvSubject> = {
  ...riscvGuest,
  apart: [
    ...riscvGuest.apart,
    { do: 'process', process: 0, first: 0, valid: true },
    { do: 'process', process: 1, first: 1, valid: true },
    { do: 'context', device: 8, first: 3, second: 0, valid: true, tc: 0 },
  ],
};

function restartVtd(fixture: TargetFixture<never>): vtd.Guest {
  const guest = guestOf<vtd.Guest>(fixture);
  guest.global(vtd.Cmd.qie, false);
  guest.iommu.write(vtd.Reg.fsts, 4, 0x7fn);
  guest.start();
  return guest;
}

function forgetVtd(fixture: TargetFixture<never>): boolean {
  const guest = restartVtd(fixture);
  guest.submit(vtd.contextGlobal, ...(guest.scalable ? [vtd.pasidGlobal] : []), vtd.iotlbGlobal, vtd.wait());
  const { iommu } = guest;
  return iommu.read(vtd.Reg.iqh, 8) === BigInt(guest.tail) && (iommu.read(vtd.Reg.fsts, 4) & 0x70n) === 0n;
}

const legacy: HostileOf<typeof legacySubject> = {
  subject: legacySubject,
  start: restartVtd,
  apart: [
    ...[8, 16].map((device, second) => ({ do: 'entry', device, second, first: -1, wrong: 0n }) as const),
    { do: 'map', table: 0, pfn: 5, to: 600, pages: 4, permission: 3, flush: 'all' },
    { do: 'map', table: 1, pfn: 7, to: 700, pages: 16, permission: 3, flush: 'all' },
  ],
  forget: forgetVtd,
};

const scalable: HostileOf<typeof scalableSubject> = {
  subject: scalableSubject,
  start: restartVtd,
  apart: [
    { do: 'translation', on: true },
    ...[8, 16].map((device, first) => ({ do: 'entry', device, second: -1, first: 2 + first, wrong: 0n }) as const),
    { do: 'map', table: 2, pfn: 5, to: 600, pages: 4, permission: 3, flush: 'all' },
    { do: 'map', table: 3, pfn: 7, to: 700, pages: 16, permission: 3, flush: 'all' },
  ],
  forget: forgetVtd,
};

function restartSmmu(fixture: TargetFixture<never>): smmu.Guest {
  const guest = guestOf<smmu.Guest>(fixture);
  guest.write(REG.CR0, 0);
  for (const register of [REG.CMDQ_PROD, REG.CMDQ_CONS]) guest.write(register, 0);
  guest.write(REG.GERRORN, guest.read(REG.GERROR));
  return guest.start();
}

const smmuv3: HostileOf<typeof smmuSubject> = {
  subject: smmuSubject,
  start: restartSmmu,
  apart: [
    ...[0, 1].map((first) => ({ do: 'context', first, wxn: 0, valid: 1 }) as const),
    ...[8, 16].map((stream, first) => ({ do: 'stream', stream, config: CONFIG.stage1, first, second: 0, spoilt: 0 }) as const),
    { do: 'map', table: 0, pfn: 5, to: 300, pages: 4, permission: 3, flush: 'all' },
    { do: 'map', table: 1, pfn: 7, to: 400, pages: 16, permission: 3, flush: 'all' },
  ],
  forget: (fixture) => {
    const guest = restartSmmu(fixture);
    guest.command(smmu.cfgiAll(), smmu.tlbiAll(), smmu.sync());
    return guest.error === 0 && guest.read(REG.CMDQ_CONS) === guest.read(REG.CMDQ_PROD);
  },
};

function restartAmd(fixture: TargetFixture<never>): amd.Guest {
  const guest = guestOf<amd.Guest>(fixture);
  guest.write(amd.Reg.control, 0n);
  for (const register of [amd.Reg.commandHead, amd.Reg.commandTail]) guest.write(register, 0n);
  guest.start();
  return guest;
}

const amdGuest: HostileOf<typeof amdSubject> = {
  subject: amdSubject,
  start: restartAmd,
  apart: [
    ...[8, 16].map((device, host) => ({ do: 'device', device, host, guest: false, permission: 3, v: true, tv: true, spoilt: 0n }) as const),
    { do: 'map', table: 0, pfn: 5, to: 300, pages: 4, permission: 3, flush: 'all' },
    { do: 'map', table: 1, pfn: 7, to: 400, pages: 16, permission: 3, flush: 'all' },
  ],
  forget: (fixture) => {
    const guest = restartAmd(fixture);
    guest.command(amd.invalidateAll(), amd.completionWait());
    return guest.read(amd.Reg.commandHead) === guest.read(amd.Reg.commandTail);
  },
};

/** A registration of address translation that is taken back takes everything along. */
const zpci: HostileOf<typeof zpciSubject> = {
  subject: zpciSubject,
  start: (fixture) => guestOf<ZpciGuest>(fixture).start(),
  apart: [
    ...[1, 2].flatMap((fid) => [
      { do: 'configure', fid, configured: true } as const,
      { do: 'set', fid, operation: 0 } as const,
      { do: 'modify', fid, operation: 7 } as const,
      { do: 'modify', fid, operation: 5 } as const,
      { do: 'register', fid, table: 2 - fid, operation: 4, last: FIRST + PAGES - 1 } as const,
    ]),
    { do: 'map', table: 1, pfn: FIRST + 5, to: 500, pages: 4, flags: 0n },
    { do: 'map', table: 0, pfn: FIRST + 7, to: 600, pages: 16, flags: 0n },
  ],
  forget: (fixture) => [1, 2].every((fid) => guestOf<ZpciGuest>(fixture).modify(fid, 5)[0] === 0),
};

const spapr: HostileOf<typeof spaprSubject> = {
  subject: spaprSubject,
  start: () => {},
  apart: [
    { kind: 'call', opcode: H_PUT_TCE, parameters: [0x8000_0000n, 0x5000n, 0x3003n, 0n], list: [] },
    { kind: 'call', opcode: H_PUT_TCE, parameters: [0x8001_0000n, 0x8000_0000n, 0x10003n, 0n], list: [] },
  ],
};

const virtio: HostileOf<(typeof virtioSubjects)[number]> = {
  subject: virtioSubjects[0],
  start: (fixture) => void fixture.run('restart'),
  apart: [{ bypass: 0 }, [attach(1, 8), attach(2, 16), map(1, 0x5000n, 0x8fffn, 0x3000n), map(2, 0x7000n, 0xffffn, 0x2_0000n)]],
};

const QUEUE = 'iommufd, SMMUv3 with a command queue';

for (const [guest, wish, hardware] of [
  [virtio, 'shadow', 'type1, plain hardware'],
  [virtio, 'user-owned', 'iommufd, two VT-d'],
  [spapr, 'shadow', 'iommufd, plain hardware'],
  [spapr, 'user-owned', 'iommufd, SMMUv3'],
  [zpci, 'shadow', 'iommufd, plain hardware'],
  [zpci, 'user-owned-queue', QUEUE],
  [amdGuest, 'shadow', 'iommufd, AMD'],
  [amdGuest, 'user-owned', 'iommufd, two SMMUv3'],
  [legacy, 'shadow', 'type1, plain hardware'],
  [legacy, 'user-owned', 'iommufd, VT-d'],
  [riscvGuest, 'shadow', 'iommufd, plain hardware'],
  [riscvGuest, 'user-owned', 'iommufd, SMMUv3'],
  [riscvGuest, 'user-owned-queue', QUEUE],
  [riscvProcesses, 'shadow', 'iommufd, PASIDs'],
  [riscvProcesses, 'user-owned', 'iommufd, VT-d, PASIDs'],
  [scalable, 'shadow', 'iommufd, plain hardware'],
  [scalable, 'user-owned', 'iommufd, VT-d'],
  [scalable, 'auto', 'iommufd, VT-d'],
  [scalable, 'auto', 'iommufd, two VT-d'],
  [scalable, 'auto', 'iommufd, VT-d, PASIDs'],
  [smmuv3, 'shadow', 'type1, plain hardware'],
  [smmuv3, 'user-owned', 'iommufd, SMMUv3'],
  [smmuv3, 'auto', 'iommufd, SMMUv3'],
  [smmuv3, 'auto', 'iommufd, two SMMUv3'],
  [smmuv3, 'auto', QUEUE],
] as readonly (readonly [HostileSubject<unknown>, string, string])[])
  hostileGuest(guest, wish, hardware);
