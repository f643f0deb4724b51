"""Outputs of tools: many alike records, a few that differ, and a question that needs one of them with its identity."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """An output: `total` records made of a template (`{i}` is the number), some of them replaced in `odd`.

    `needles` are regular expressions for what the answer needs.
    """

    question: str
    record: str
    needles: tuple[str, ...]
    odd: dict[int, tuple[str, str]] = field(default_factory=dict[int, tuple[str, str]])
    total: int = 60
    before: str = ""
    after: str = ""

    def write(self) -> str:
        """Return the text; `odd` maps numbers to a part of the record and what it is replaced with."""
        records: list[str] = []
        for number in range(self.total):
            record = self.record.replace("{i}", str(number)).replace("{h}", f"{number * 7919 % 65521:04x}")
            old, new = self.odd.get(number, ("", ""))
            records.append(record.replace(old, new, 1) if old else record)
        return self.before + "".join(records) + self.after


LDIF = "# u{i}, people, example.com\ndn: uid=u{i},dc=example\nuid: u{i}\ncn: Person {i}\nmail: u{i}@example.com\n\n"
DEPLOYMENT = (
    "---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: svc-{i}\nspec:\n  containers:\n  - name: app\n"
    "    env:\n    - name: LOG_LEVEL\n      value: info\n    resources:\n      limits:\n        memory: 3{i}Mi\n"
)
AUDIT = "pkg-{i}  <{i}.2.0\nSeverity: moderate\nIssue {h}\nnode_modules/pkg-{i}\n  dep-{i}  >={i}.0.0\n\n"
UNIT = (
    "● svc{i}.service - Service {i}\n     Active: active (running) since Sat; 1h ago\n"
    "    Process: 4{i} ExecStart=/bin/svc{i} (code=exited, status=0/SUCCESS)\n   Main PID: 5{i}\n\n"
)
NMAP = "Nmap scan report for host{i}.example\nHost is up.\nPORT   STATE SERVICE\n22/tcp open  OpenSSH 9.2\n\n"
GROUP_RULE = (
    '  # aws_rule.allow[{i}] will be updated in-place\n  ~ resource "aws_rule" "allow" {\n'
    '        id          = "sgr-{h}"\n      ~ description = "rule {i}" -> "managed rule {i}"\n    }\n\n'
)
REPLICA = (
    "*************************** {i}. row ***************************\n                  Master_Host: db-{i}.internal\n"
    "             Slave_IO_Running: Yes\n                   Last_Error: \n        Seconds_Behind_Master: 0\n"
)
ADAPTER = (
    "Ethernet adapter Ethernet {i}:\n\n   DHCP Enabled. . . . . . . . . . . : Yes\n"
    "   IPv4 Address. . . . . . . . . . . : 10.{i}.0.5\n   DNS Servers . . . . . . . . . . . : 10.{i}.0.53\n\n"
)
LEAK = (
    "==7== {i} bytes in 1 blocks are still reachable in loss record {i} of 60\n==7==    at 0x48: malloc (vg.c:381)\n"
    "==7==    by 0x10{i}: make{i} (thing.c:1{i})\n==7== \n"
)
COMMIT = (
    "commit {h}aaaabbbbccccddddeeeeffff0000111122223333\nAuthor: A{i} <a@b.c>\n"
    "Date:   Mon Mar 5 10:00:{i} 2026\n\n    Change {i}\n\n"
)
DEPENDENCY = (
    "    <dependency>\n      <artifactId>lib-{i}</artifactId>\n      <version>3.{i}.2</version>\n    </dependency>\n"
)
PROBLEMS = "/srv/src/comp{i}.tsx\n   4:5  warning  Unexpected console  rule\n  37:8  error    Missing dep{i}  hooks\n\n"

OUTPUTS: dict[str, ToolOutput] = {
    "kubectl get pods -o wide": ToolOutput(
        "Which pods are not healthy, and on which node are they?",
        "svc-{i}-{h}      1/1     Running            0          3d    10.42.0.{i}   worker-{i}\n",
        (r"svc-17-\w+ .*CrashLoopBackOff.*worker-17",),
        {17: ("1/1     Running         ", "0/1     CrashLoopBackOff")},
        before="NAME             READY   STATUS             RESTARTS   AGE   IP           NODE\n",
    ),
    "kubectl get events": ToolOutput(
        "Why is a pod pending?",
        "{i}m         Normal    Created             pod/worker-{i}-{h}      Created container app-{i}\n",
        (r"pod/worker-31-\w+ .*Insufficient memory",),
        {31: ("Created container", "0/4 nodes are available: 1 Insufficient memory.")},
        before="LAST SEEN   TYPE      REASON              OBJECT                 MESSAGE\n",
    ),
    "kustomize build": ToolOutput(
        "Which deployment has LOG_LEVEL debug, and what is its memory limit?",
        DEPLOYMENT,
        (r"name: svc-13$", r"value: debug", r"memory: 313Mi"),
        {13: ("value: info", "value: debug")},
        total=25,
    ),
    "terraform plan": ToolOutput(
        "Will anything be destroyed, and why?",
        GROUP_RULE,
        (r"# aws_rule.allow\[11\] must be replaced\n",),
        {11: ("will be updated in-place", "must be replaced")},
        total=24,
    ),
    "psql -x": ToolOutput(
        "Which order failed, and what is its amount?",
        "-[ RECORD {i} ]----\nid       | 10{i}\nstatus   | paid\namount   | {i}.50\n",
        (r"id\s+\| 1058$", r"failed", r"58\.50"),
        {58: ("paid", "failed")},
        total=80,
    ),
    "sqlite3 -line": ToolOutput(
        "Which order failed, and what is its amount?",
        "      id = {i}\ncustomer = c{h}\n  status = paid\n  amount = 9{i}.5\n\n",
        (r"id = 47$", r"failed", r"947\.5"),
        {47: ("paid", "failed")},
    ),
    "sqlite3 .dump": ToolOutput(
        "Which order failed, and what is its amount?",
        "INSERT INTO orders VALUES({i},'c{h}','paid',9{i}.5);\n",
        (r"VALUES\(47,.*failed.*947\.5",),
        {47: ("paid", "failed")},
        before="BEGIN TRANSACTION;\nCREATE TABLE orders(id integer, customer text, status text, amount real);\n",
        after="COMMIT;\n",
    ),
    "mysql \\G": ToolOutput(
        "Which replica does not run, and why?",
        REPLICA,
        (r"Master_Host: db-7\.", r"fatal error 1236"),
        {7: ("Last_Error: ", "Last_Error: Got fatal error 1236 from source")},
        total=20,
    ),
    "ldapsearch": ToolOutput(
        "What is the mail of Maria Keller?",
        LDIF,
        (r"uid=u44,", r"cn: Maria Keller", r"u44@example\.com"),
        {44: ("Person 44", "Maria Keller")},
        total=80,
    ),
    "cat Cargo.lock": ToolOutput(
        "Which version of hyper is locked?",
        '[[package]]\nname = "crate-{i}"\nversion = "1.{i}.0"\nchecksum = "{h}{h}"\ndependencies = [\n "bytes",\n]\n\n',
        (r'name = "hyper"\nversion = "1\.33\.0"',),
        {33: ("crate-33", "hyper")},
    ),
    "ini file": ToolOutput(
        "What is the timeout of the payments section?",
        "[service-{i}]\nurl = https://s{i}.example\ntimeout = 3{i}\nretries = 2\n\n",
        (r"^\[payments\]\n", r"timeout = 317"),
        {17: ("service-17", "payments")},
        total=40,
    ),
    "pom.xml": ToolOutput(
        "Which version of jackson-databind?",
        DEPENDENCY,
        (r"jackson-databind</artifactId>\n\s+<version>3\.23\.2",),
        {23: ("lib-23", "jackson-databind")},
        before='<?xml version="1.0"?>\n<project>\n  <dependencies>\n',
        after="  </dependencies>\n</project>\n",
    ),
    "one-line JUnit": ToolOutput(
        "Which tests failed, and why?",
        '<testcase classname="pkg.mod{i}" name="test_case_{i}" time="0.0{i}"></testcase>',
        (r'name="test_case_41" [^<]*><failure message="expected 4 got 5"', r'name="test_case_97" [^<]*><failure'),
        dict.fromkeys((41, 97), ('">', '"><failure message="expected 4 got 5">mod.py:9</failure>')),
        total=150,
        before='<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="unit" failures="2" tests="150">',
        after="</testsuite></testsuites>",
    ),
    "one-line sitemap": ToolOutput(
        "When was pricing last modified?",
        "<url><loc>https://example.com/page-{i}</loc><lastmod>2026-07-{i}</lastmod><priority>0.5</priority></url>",
        (r"pricing</loc><lastmod>2026-07-51",),
        {51: ("page-51", "pricing")},
        total=120,
        before='<?xml version="1.0" encoding="UTF-8"?><urlset>',
        after="</urlset>",
    ),
    "Python literal": ToolOutput(
        "Which job failed, and with what exit code?",
        "{'id': {i}, 'name': 'job-{i}', 'state': 'ok', 'exit': 0, 'host': 'h{h}'}, ",
        (r"'name': 'job-66', 'state': 'failed'[^}]*\}",),
        {66: ("'ok', 'exit': 0", "'failed', 'exit': 137")},
        total=100,
        before="[",
        after="]",
    ),
    "pprint": ToolOutput(
        "Which job failed, and with what exit code?",
        " {'exit': 0,\n  'id': {i},\n  'name': 'job-{i}',\n  'state': 'ok'},\n",
        (r"\{'exit': 137,\n  'id': 66,\n  'name': 'job-66',\n  'state': 'failed'",),
        {
            66: (
                "0,\n  'id': 66,\n  'name': 'job-66',\n  'state': 'ok'",
                "137,\n  'id': 66,\n  'name': 'job-66',\n  'state': 'failed'",
            )
        },
        total=100,
    ),
    "netstat -anob": ToolOutput(
        "Which process listens on port 5033?",
        "  TCP    0.0.0.0:50{i}           0.0.0.0:0              LISTENING       10{i}\n [svc{i}.exe]\n",
        (r"0\.0\.0\.0:5033 .*\n \[svc33\.exe\]",),
        before="\nActive Connections\n\n  Proto  Local Address          Foreign Address        State           PID\n",
    ),
    "tasklist": ToolOutput(
        "Which process uses the most memory?",
        "proc{i}.exe                     1{i} Services                   0      7,0{i} K\n",
        (r"proc41\.exe.*4,812,344 K",),
        {41: ("7,041 K", "4,812,344 K")},
        before="Image Name                     PID Session Name        Session#    Mem Usage\n"
        "========================= ======== ================ =========== ============\n",
    ),
    "ipconfig /all": ToolOutput(
        "What is the IPv4 address of the VPN adapter?",
        ADAPTER,
        (r"Corp VPN:\n", r"10\.8\.0\.5$"),
        {8: ("Ethernet 8", "Corp VPN")},
        total=12,
    ),
    "Get-Service | fl": ToolOutput(
        "Which service is stopped?",
        "Name                : Svc{i}\nStatus              : Running\nStartType           : Automatic\n\n",
        (r"Name\s+: Svc37\nStatus\s+: Stopped",),
        {37: ("Running", "Stopped")},
    ),
    "reg query": ToolOutput(
        "What is the version of Foo?",
        "HKEY_LOCAL_MACHINE\\SOFTWARE\\App{i}\n    Version    REG_SZ    {i}.4.1\n    Flags    REG_DWORD    0x1\n\n",
        (r"SOFTWARE\\Foo\n\s+Version\s+REG_SZ\s+22\.4\.1",),
        {22: ("App22", "Foo")},
    ),
    "npm audit": ToolOutput(
        "Which vulnerability is critical, and who depends on it?",
        AUDIT,
        (r"^pkg-14 ", r"Severity: critical", r"dep-14"),
        {14: ("moderate", "critical")},
        total=25,
        after="25 vulnerabilities (24 moderate, 1 critical)\n",
    ),
    "npm ls": ToolOutput(
        "Who depends on semver?",
        "├─┬ mod-{i}@2.0.0\n│ ├── lodash@4.17.{i}\n│ └── ms@2.1.{i}\n",
        (r"mod-38@[^├]*├── lodash[^└]*└── semver@",),
        {38: ("ms@2.1.38", "semver@5.7.1")},
        before="app@1.0.0 /srv/app\n",
    ),
    "go test -v": ToolOutput(
        "Which test fails, and why?",
        "=== RUN   TestCase{i}\n--- PASS: TestCase{i} (0.00s)\n",
        (r"=== RUN   TestCase52\n\s+cart_test\.go:71: total = 1999, want 2000\n--- FAIL: TestCase52",),
        {52: ("--- PASS", "    cart_test.go:71: total = 1999, want 2000\n--- FAIL")},
        total=80,
        after="FAIL\nFAIL\texample.com/shop/cart\t0.214s\n",
    ),
    "systemctl status": ToolOutput(
        "Which unit failed, and why?",
        UNIT,
        (r"svc9\.service", r"failed \(Result: exit-code\)"),
        {9: ("active (running)", "failed (Result: exit-code)")},
        total=20,
    ),
    "nmap": ToolOutput(
        "Which host runs OpenSSH 7.4?",
        NMAP,
        (r"host31\.example", r"OpenSSH 7\.4"),
        {31: ("OpenSSH 9.2", "OpenSSH 7.4")},
        total=45,
    ),
    "valgrind": ToolOutput(
        "Where is memory definitely lost?",
        LEAK,
        (r"definitely lost in loss record 17 ", r"make17 \(thing\.c:117\)"),
        {17: ("still reachable", "definitely lost")},
        total=40,
    ),
    "git log": ToolOutput(
        "Which commit mentions the time zone, and who wrote it?",
        COMMIT,
        (r"^commit \w{44}\nAuthor: A23 ", r"Fix the time zone"),
        {23: ("Change 23", "Fix the time zone")},
    ),
    "git diff --stat": ToolOutput(
        "Which file has the most changes?",
        " src/module_{h}/file{i}.py | 1{i} ++--\n",
        (r"file41\.py \| 7744 ",),
        {41: ("| 141 ", "| 7744 ")},
        total=200,
        after=" 200 files changed, 12000 insertions(+), 900 deletions(-)\n",
    ),
    "find -ls": ToolOutput(
        "Which file is largest?",
        "  55{i}     20 -rw-r--r--   1 root     root        12{i} Nov 29 21:29 ./src/{h}/m{i}.py\n",
        (r" 991284 Nov.*m77\.py",),
        {77: (" 1277 ", " 991284 ")},
        total=150,
    ),
    "ls -R": ToolOutput(
        "In which folder is needle.py?",
        "./pkg{i}:\n__init__.py\nread{i}.py\nwrite{i}.py\n\n",
        (r"^\./pkg33:\n(?:.*\n)*?needle\.py",),
        {33: ("read33.py", "needle.py")},
    ),
    "env": ToolOutput(
        "What is PATH?",
        "CONFIG_{i}_PATH=/etc/config/{h}\n",
        (r"^PATH=/usr/bin",),
        {40: ("CONFIG_40_PATH=/etc/config", "PATH=/usr/bin")},
    ),
    "dpkg -l": ToolOutput(
        "Which version of openssl is installed?",
        "ii  lib{h}{i}            1.{i}-2            amd64        library to use with openssl, version {i}\n",
        (r"^ii  openssl +3\.0\.19",),
        {40: ("ii  lib", "ii  openssl                3.0.19-1           amd64        toolkit\nii  lib")},
        before="Desired=Unknown/Install/Remove\n||/ Name             Version            Architecture Description\n",
        total=120,
    ),
    "mtr -r": ToolOutput(
        "Where are packets lost?",
        "{i}.|-- hop{i}.isp.example              0.0%    50    2.1   2.2   1.9   5.5   1.1\n",
        (r"hop9\..*62\.0%",),
        {9: (" 0.0%", "62.0%")},
        total=24,
        before="HOST: laptop                      Loss%   Snt   Last   Avg  Best  Wrst StDev\n",
    ),
    "access log": ToolOutput(
        "Which request was slowest, and which failed?",
        '10.0.0.{i} - - [29/Nov/2026:10:00:{i} +0000] "GET /p/{i} HTTP/1.1" 200 512 0.01{i}\n',
        (r"/p/233 HTTP/1\.1\" 503", r"/p/301 .*31\.2"),
        {233: ('" 200', '" 503'), 301: ("0.01301", "31.2")},
        total=400,
    ),
    "journalctl": ToolOutput(
        "Why did nginx stop?",
        "Nov 29 10:00:{i} web1 systemd[1]: Started Session {i} of User root.\n",
        (r"nginx\.service: Main process exited, code=exited, status=1/FAILURE",),
        {
            178: (
                "Started Session 178 of User root.",
                "nginx.service: Main process exited, code=exited, status=1/FAILURE",
            )
        },
        total=300,
    ),
    "docker compose logs": ToolOutput(
        "Why did the worker fail?",
        "api-1     | GET /items/{i} 200 {i}ms\nworker-1  | job {i} done\n",
        (r"worker-1  \| KeyError: 'invoice_id'",),
        {71: ("job 71 done", "KeyError: 'invoice_id'")},
        total=120,
    ),
    "gh run view --log": ToolOutput(
        "Why did CI fail, and when?",
        "build\tTest\t2026-11-29T10:00:00.{i}1234Z tests/test_m{i}.py::test_x PASSED\n",
        (r"2026-11-29T10:00:00\.911234Z FAILED tests/test_m91\.py::test_total - assert 41 == 42",),
        {91: ("tests/test_m91.py::test_x PASSED", "FAILED tests/test_m91.py::test_total - assert 41 == 42")},
        total=200,
        after="build\tTest\t2026-11-29T10:09:01.1234567Z ##[error]Process completed with exit code 1.\n",
    ),
    "CSV": ToolOutput(
        "Who is the manager of Erin Vale?",
        "{i},Person {i},Engineer,Boss {h},5{i}\n",
        (r"^61,Erin Vale,.*Boss \w+,561",),
        {61: ("Person 61", "Erin Vale")},
        total=200,
        before="id,name,title,manager,salary\n",
    ),
    "chat": ToolOutput(
        "Who said when the rollback window is?",
        "[09:{i}] <user{i}> looks fine to me, item {i} is on the board\n",
        (r"^\[09:77\] <user77> the rollback window is 22:00",),
        {77: ("looks fine to me, item 77 is on the board", "the rollback window is 22:00 to 23:30")},
        total=160,
    ),
    "JSON lines": ToolOutput(
        "Which request failed, and why?",
        '{"ts":"10:00:{i}","level":"info","path":"/v1/items/{i}","status":200,"trace":"{h}"}\n',
        (r"/v1/items/93\b.*502",),
        {93: ('"info","path":"/v1/items/93","status":200', '"error","path":"/v1/items/93","status":502')},
        total=150,
    ),
    "eslint": ToolOutput(
        "Which problems are in comp13.tsx?",
        PROBLEMS,
        (r"comp13\.tsx\n\s+4:5.*\n\s+37:8  error    Missing dep13", r"120 problems"),
        total=40,
        after="✖ 120 problems (60 errors, 60 warnings)\n",
    ),
    "apt-get install": ToolOutput(
        "Why did the installation fail?",
        "Unpacking lib{i} (1.{i}-1) ...\nSetting up lib{i} (1.{i}-1) ...\n",
        (r"trying to overwrite '/usr/lib/libz\.so\.1'", r"lib44_1\.44"),
        total=70,
        after="dpkg: error processing archive /var/cache/lib44_1.44-1.deb (--unpack):\n"
        " trying to overwrite '/usr/lib/libz.so.1', which is also in zlib1g\nE: Sub-process returned an error (1)\n",
    ),
    "apt-cache policy": ToolOutput(
        "Which version of lib7 is installed?\nbash apt-cache policy " + " ".join(f"lib{index}" for index in range(60)),
        "lib{i}:\n  Installed: 1.{i}-1\n  Candidate: 1.{i}-2\n  Version table:\n     1.{i}-2 500\n"
        "        500 http://deb.example.org/debian bookworm/main amd64 Packages\n",
        (r"^lib7:\n  Installed: 1\.7-1$",),
    ),
    "turbo run test": ToolOutput(
        "Which test failed, and why?",
        "@shop/web:test:  ✓ {i} [chromium] › page{i}.spec.ts:{i}:1 › shows page {i}\n",
        (r"mail\.spec\.ts:28", r"Received: hidden", r"59 passed"),
        after="".join(
            f"@shop/web:test: {line}\n"
            for line in (
                "  1) [chromium] › mail.spec.ts:28:1 › contact form",
                "    Error: Timed out 5000ms waiting for expect(locator).toBeVisible()",
                "    Expected: visible",
                "    Received: hidden",
                "  1 failed",
                "  59 passed (38.2s)",
            )
        ),
    ),
    "docker inspect": ToolOutput(
        "Why was the container killed?",
        "  worker-{i}:\n    image: worker:1.{i}\n    state: running\n    exit code: 0\n    restarts: 0\n"
        "    port: 80{i}\n    volume: data-{i}\n    network: net-{i}\n",
        (r"worker-9:\n", r"OOMKilled", r"-Xmx900m", r"memory: 512Mi"),
        {
            9: (
                "state: running\n    exit code: 0",
                "state: OOMKilled\n    exit code: 137\n    options: -Xmx900m\n    memory: 512Mi",
            )
        },
        total=40,
        before="containers:\n",
    ),
    "a build with a remedy": ToolOutput(
        "Why did the installation fail, and what can be done?",
        "resolving pkg-{i} 1.{i}.0 from the registry\n",
        (r"peer react", r"--legacy-peer-deps"),
        after="Could not resolve dependency: peer react@16 from enzyme\nFix the dependency conflict, or retry\n"
        "this command with --force or --legacy-peer-deps to accept it\n"
        "A complete log of this run is in:\n/tmp/debug-0.log\n",
    ),
}
