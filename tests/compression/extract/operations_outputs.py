"""Outputs of tools that operate machines; the answers are odd, extreme, missing or named values."""

from .tool_outputs import ToolOutput

PACKAGE = (
    "Name        : pkg{i}\nVersion     : 1.{i}\nRelease     : 2.el7\nInstall Date: Wed 16 Oct 2019\n"
    "Group       : System\nSize        : 9{h}0\nLicense: MIT\nBuild Date  : Thu 08 Aug 2019\nVendor      : CentOS\n"
    "Description :\nThe package pkg{i} has tools. Install the package if you need them.\n\n"
)
POD = (
    (
        '{{"metadata":{{"name":"svc{i}-{h}","namespace":"prod"}},"spec":{{"nodeName":"node-{i}"}},"status":{{"phase":"Running",'
        '"podIP":"10.0.0.{i}","containerStatuses":[{{"name":"svc{i}","image":"registry.example/svc{i}:1.{i}.0",'
        '"imageID":"sha256:{h}{h}{h}{h}{h}{h}{h}{h}{h}{h}","ready":true,"restartCount":1,"lastState":{{}}}}]}}}},\n'
    )
    .replace("{{", "{")
    .replace("}}", "}")
)
INSTANCE = (
    '  # aws_instance.svc{i} will be updated in-place\n  ~ resource "aws_instance" "svc{i}" {\n'
    '        id           = "i-{h}"\n      ~ tags         = {\n          ~ "Release" = "10" -> "11"\n        }\n'
    "        # (38 unchanged attributes hidden)\n    }\n\n"
)
PLAN = """\
 Limit  (cost=4.3..4.3 rows=10 width=88) (actual time=48211.4..48211.4 rows=10 loops=1)
   Output: c.id, c.name, (sum(i.amount))
   ->  Sort  (cost=4.3..8.0 rows=35 width=88) (actual time=48211.4..48211.4 rows=10 loops=1)
         Output: c.id, c.name, (sum(i.amount))
         Sort Key: (sum(i.amount)) DESC
         Sort Method: top-N heapsort  Memory: 26kB
         ->  GroupAggregate  (cost=1.1..2.4 rows=35 width=88) (actual time=41873.5..48102.7 rows=34120 loops=1)
               Output: c.id, c.name, sum(i.amount)
               Group Key: c.id
               ->  Sort  (cost=1.1..7.4 rows=70 width=48) (actual time=41873.5..45012.3 rows=8120331 loops=1)
                     Output: c.id, c.name, i.amount
                     Sort Key: c.id
                     Sort Method: external merge  Disk: 498312kB
                     ->  Hash Join  (cost=2..4 rows=70) (actual time=88.2..12112.8 rows=8120331 loops=1)
                           Output: c.id, c.name, i.amount
                           Hash Cond: (i.customer_id = c.id)
                           ->  Seq Scan on items i  (cost=0..8) (actual time=0.1..9110.2 rows=8120331 loops=1)
                                 Output: i.id, i.customer_id, i.sku, i.amount, i.status, i.created_at
                                 Filter: (status = 'paid')
                           ->  Hash  (cost=1..1 rows=50) (actual time=87.5..87.5 rows=50000 loops=1)
                                 Output: c.id, c.name
                                 Buckets: 65536  Batches: 1  Memory Usage: 3637kB
                                 ->  Seq Scan on customers c  (cost=0..1) (actual time=0.1..41.2 rows=50000 loops=1)
                                       Output: c.id, c.name, c.email, c.street, c.city, c.country
 Planning Time: 1.204 ms
 Execution Time: 48310.773 ms
"""

OPERATIONS: dict[str, ToolOutput] = {
    "XML: the cheapest": ToolOutput(
        "Which CD is the cheapest?",
        "  <CD>\n    <TITLE>Album {i}</TITLE>\n    <PRICE>1{i}.90</PRICE>\n  </CD>\n",
        (r"<TITLE>Album 44</TITLE>\n +<PRICE>7.20<",),
        {44: ("144.90", "7.20")},
        before="<CATALOG>\n",
        after="</CATALOG>\n",
    ),
    "kubectl top pods": ToolOutput(
        "Which pod uses the most memory?",
        "prod          svc-{i}-{h}                   {i}m          9{i}Mi\n",
        (r"svc-31-\w+ .* 3Gi$", r"MEMORY\(bytes\)"),
        {31: (" 931Mi", " 3Gi")},
        before="NAMESPACE     NAME                          CPU(cores)   MEMORY(bytes)\n",
    ),
    "docker images": ToolOutput(
        "Which image takes up the most space?",
        "registry.example/svc{i}   1.{i}.0    {h}{h}{h}   {i} days ago    9{i}MB\n",
        (r"svc12 .* 12\.4GB$",),
        {12: (" 912MB", " 12.4GB")},
        before="REPOSITORY              TAG       IMAGE ID       CREATED        SIZE\n",
    ),
    "kubectl get deployments": ToolOutput(
        "Which deployment is the newest?",
        "svc-{i}-{h}     3/3     3            3           9{i}d\n",
        (r"^svc-22-\w+ .* 7h$",),
        {22: ("922d", "7h")},
        before="NAME            READY   UP-TO-DATE   AVAILABLE   AGE\n",
    ),
    "tasklist": ToolOutput(
        "Which process uses the most memory?",
        "svchost.exe                   1{h} Services                   0     9{h} K\n",
        (r"sqlservr\.exe .*2,914,332 K", r"Mem Usage"),
        {41: ("svchost.exe                   1f476 Services                   0     9f476 K", "")},
        before="Image Name                     PID Session Name        Session#    Mem Usage\n"
        "========================= ======== ================ =========== ============\n",
        after="sqlservr.exe                   620 Services                   0  2,914,332 K\n"
        "svchost.exe                    712 Services                   0     9,812 K\n",
    ),
    "dpkg -l": ToolOutput(
        "Which packages were removed, but not their configuration?",
        "ii  pkg-{i}-{h}       1.{i}-1          amd64        package that does {i}\n",
        (r"^rc  pkg-37-", r"^\|\|/ Name +Version"),
        {37: ("ii  pkg", "rc  pkg")},
        before="Desired=Unknown/Install/Remove/Purge/Hold\n| Status=Not/Inst/Conf-files/Unpacked/halF-conf/Half-inst\n"
        "|/ Err?=(none)/Reinst-required (Status,Err: uppercase=bad)\n"
        "||/ Name              Version          Architecture Description\n"
        "+++-=================-================-============-=============================\n",
    ),
    "Get-Service": ToolOutput(
        "Which services should be running but are not?",
        "Running  Svc{i}A             Automatic\nStopped  Svc{i}B             Manual\n",
        (r"Stopped  Svc33A +Automatic",),
        {33: ("Running", "Stopped")},
        before="Status   Name               StartType\n------   ----               ---------\n",
    ),
    "tickets as TSV": ToolOutput(
        "Which tickets does nobody handle?",
        "T-{i}\tservice {h} does not respond\tana\tP2\n",
        (r"^T-23\t.*\t\tP2", r"^T-57\t"),
        {23: ("ana", ""), 57: ("ana", "")},
        before="id\ttitle\tassignee\tpriority\n",
    ),
    "iostat -x": ToolOutput(
        "Which disk is the busiest?",
        "loop{i}            0.{i}    0.00      0.79     20.12    0.00\n",
        (r"^Device +r/s .*%util", r"^sda .*95\.14$"),
        {
            17: (
                "loop17            0.17    0.00      0.79     20.12    0.00",
                "sda      7.92   67.15   8595.16   2.57  95.14",
            )
        },
        total=30,
        before="Linux 4.15.0 (host)\n\navg-cpu:  %user   %nice %system\n          39.64   12.36   28.21\n\n"
        "Device            r/s     w/s     rkB/s   r_await   %util\n",
    ),
    "curl -v": ToolOutput(
        "Did it redirect, and what is the final status?",
        "* TLSv1.3 (IN), TLS handshake, step {i} of {h}:\n",
        (r"^< HTTP/1\.1 301", r"^< HTTP/2 200"),
        {
            30: ("* TLSv1.3", "< HTTP/1.1 301 Moved Permanently\n< location: https://shop.example/\n* TLSv1.3"),
            55: ("* TLSv1.3", "< HTTP/2 200 \n< content-type: text/html\n* TLSv1.3"),
        },
    ),
    "sshd -T": ToolOutput(
        "Can root log in with a password?",
        "setting{h} {i}\n",
        (r"^permitrootlogin no", r"^passwordauthentication yes"),
        {40: ("setting", "permitrootlogin no\nsetting"), 50: ("setting", "passwordauthentication yes\nsetting")},
        total=90,
    ),
    "env": ToolOutput(
        "Which variables are not set?",
        "SVC{i}_URL=https://svc{i}.internal\nSVC{i}_TIMEOUT=3000\n",
        (r"^SVC29_URL=$",),
        {29: ("https://svc29.internal", "")},
    ),
    "ethtool -m": ToolOutput(
        "Is any alarm raised?",
        "        Lane {i} power high alarm          : Off\n        Lane {i} power low alarm           : Off\n",
        (r"Lane 19 power high alarm +: On",),
        {19: (": Off", ": On")},
        total=40,
    ),
    "pom.xml": ToolOutput(
        "Does the build depend on an unreleased version?",
        "  <dependency>\n    <artifactId>lib-{i}</artifactId>\n    <version>1.{i}.0</version>\n  </dependency>\n",
        (r"lib-27</artifactId>\s+<version>1\.27\.0-SNAPSHOT",),
        {27: ("1.27.0", "1.27.0-SNAPSHOT")},
        before="<project>\n  <dependencies>\n",
        after="  </dependencies>\n</project>\n",
    ),
    "rpm -qai": ToolOutput(
        "Which version of openssl is installed, and when was it built?",
        PACKAGE,
        (r"Name        : openssl\nVersion     : 1\.44\n(?:(?!Name ).*\n)*?Build Date  : Thu",),
        {44: ("pkg44\n", "openssl\n")},
        total=90,
    ),
    "terraform plan": ToolOutput(
        "What changes on svc17?",
        INSTANCE,
        (r"aws_instance\.svc17 will", r'"Release" = "10" -> "17"'),
        {17: ('"11"', '"17"')},
        total=30,
        after="Plan: 0 to add, 30 to change, 0 to destroy.\n",
    ),
    "kubectl get pods -o json": ToolOutput(
        "Which container restarts again and again, and with which exit code?",
        POD,
        (r'"?name"?: ?"svc41"', r'"?restartCount"?: ?212', r'"?exitCode"?: ?139'),
        {
            41: (
                '"restartCount":1,"lastState":{}',
                '"restartCount":212,"lastState":{"terminated":{"exitCode":139,"reason":"Error"}}',
            )
        },
        before='{"items":[\n',
        after='{"metadata":{"name":"last","namespace":"prod"},"status":{"phase":"Running"}}]}\n',
    ),
    "access log as JSON lines": ToolOutput(
        "Which request took longest?",
        '{"path":"/v1/items/{i}","status":200,"duration":1{i},"request_id":"{h}"}\n',
        (r"/v1/items/88\b.*29871",),
        {88: ('"duration":188', '"duration":29871')},
        total=150,
    ),
    "aws iam list-users": ToolOutput(
        "Which users never logged in?",
        '{"UserName":"user{i}","CreateDate":"2024-01-02","PasswordLastUsed":"2026-11-0{i}"},\n',
        (r'"user33",',),
        {33: (',"PasswordLastUsed":"2026-11-033"', "")},
        before='{"Users":[\n',
        after='{"UserName":"root","CreateDate":"2023-01-02","PasswordLastUsed":"2026-11-01"}]}\n',
    ),
    "EXPLAIN ANALYZE": ToolOutput(
        "Why is this query slow?",
        "",
        (r"-> +Sort .*rows=8120331", r"Execution Time: 48310"),
        total=0,
        before=PLAN,
    ),
}
