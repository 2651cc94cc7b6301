import { MACHINES, type MachineName, serveQtest, testMachine, type UnitName } from '../vmm/qtest/index.ts';
import { type Command, EXIT_OK, UsageError } from './command.ts';

/** What of QEMU's arguments matters. */
interface QemuArguments {
  readonly qtest: string | null;
  readonly qmp: string | null;
  readonly testDevice: number | null;
  readonly iommu: number | null;
  readonly ramBytes: number | null;
  readonly unit: UnitName | null;
}

/** Those of QEMU's arguments that are read here, each with a value. */
const WITH_VALUE: readonly string[] = ['-qtest', '-chardev', '-m', '-device'];

/** One of our machines in QEMU's place, for clients of qtest. */
export const qtestCommand: Command = {
  name: 'qtest',
  summary: "serves a machine with viommu's IOMMU to a client of QEMU's qtest protocol",
  define: (command, _output, end) => {
    command
      .requiredOption('--machine <name>', `which machine: ${MACHINES.join(', ')}`)
      .argument(
        '[arguments...]',
        "QEMU's arguments, behind --: -qtest unix:PATH, -chardev socket,path=PATH, -device NAME,addr=SLOT, -m SIZE",
      )
      .addHelpText('after', '\nAs a program named qemu-system-ARCH: exec viommu qtest --machine q35 -- "$@"')
      .action(async (given: readonly string[], { machine }: { machine: string }) => end(await serve(machine, given)));
  },
};

async function serve(name: string, given: readonly string[]): Promise<number> {
  if (!(MACHINES as readonly string[]).includes(name)) throw new UsageError(`--machine ${name} is none of ${MACHINES.join(', ')}`);
  const { qtest, qmp, testDevice, iommu, ramBytes, unit } = parse(given);
  if (qtest === null) throw new UsageError('-qtest unix:PATH says where the client listens');
  // Clients end their QEMU so, and look at the status.
  process.once('SIGTERM', () => process.exit(EXIT_OK));
  try {
    const machine = testMachine(name as MachineName, {
      ...(ramBytes !== null && { ramBytes }),
      ...(testDevice !== null && { testDevice }),
      ...(iommu !== null && { iommu }),
      ...(unit !== null && { unit }),
    });
    await serveQtest(machine, { qtest, qmp });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new UsageError(code === undefined ? message : `nobody listens on ${qtest}: ${code}`);
  }
  return EXIT_OK;
}

function parse(given: readonly string[]): QemuArguments {
  let found: QemuArguments = { qtest: null, qmp: null, testDevice: null, iommu: null, ramBytes: null, unit: null };
  given.forEach((name, i) => {
    const value = given[i + 1] ?? '';
    if (WITH_VALUE.includes(name) && (value === '' || value.startsWith('-'))) throw new UsageError(`${name} needs a value`);
    if (name === '-qtest') found = { ...found, qtest: pathOf(value) };
    if (name === '-chardev') found = { ...found, qmp: /(?:^|,)path=([^,]*)/.exec(value)?.[1] ?? found.qmp };
    if (name === '-m') found = { ...found, ramBytes: bytesOf(value) };
    if (name === '-device') found = { ...found, unit: unitOf(value) ?? found.unit };
    const slot = /,addr=(?:0x)?([0-9a-f]+)(?:\.0)?(?:,|$)/i.exec(value)?.[1];
    if (name !== '-device' || slot === undefined) return;
    if (value.startsWith('iommu-testdev')) found = { ...found, testDevice: Number.parseInt(slot, 16) };
    if (value.startsWith('riscv-iommu-pci')) found = { ...found, iommu: Number.parseInt(slot, 16) };
  });
  return found;
}

/** @throws UsageError for what names no socket */
function pathOf(socket: string): string {
  const path = socket.replace(/^unix:/, '');
  if (path === '') throw new UsageError(`-qtest ${socket} names no socket`);
  return path;
}

/** Which IOMMU a device of q35's is; null: it is none. */
function unitOf(device: string): UnitName | null {
  if (/^amd-iommu(,|$)/.test(device)) return 'amd';
  if (!/^intel-iommu(,|$)/.test(device)) return null;
  return /,(x-)?scalable-mode=on(,|$)/.test(device) ? 'vtd-scalable' : 'vtd';
}

/** `512M`, `1G`; a number alone is in MiB. @throws UsageError for anything else, and for more than 4 GiB. */
function bytesOf(text: string): number {
  const [, number, unit] = /^(?:size=)?(\d+)([MG]?)$/.exec(text) ?? [];
  const bytes = Number(number) * 2 ** (unit === 'G' ? 30 : 20);
  if (!(bytes > 0 && bytes <= 2 ** 32)) throw new UsageError(`-m ${text} is no size up to 4 GiB`);
  return bytes;
}
