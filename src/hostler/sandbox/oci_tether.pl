#!/usr/bin/perl
# How does a command inside a container live and die with the program on the host that asked for it?
#
# The engine starts this program inside, in the container, with the command's standard streams. It connects to the unix
# socket of `oci_attach`, is told environment and command there, starts the command, passes signals on, says how it
# ended; and when the other side hangs up, killed or not, it kills the command. In Perl because every Debian and Ubuntu
# system has it (perl-base is essential) and it starts in a millisecond, without a module, also under gVisor.
#
#   oci_tether.pl SOCKET program|command NUMBER-OF-PRCTL
use strict;
use warnings;

my ($socket, $kind, $prctl) = @ARGV;
my ($AF_UNIX, $SOCK_STREAM, $SIGKILL, $SUBREAPER) = (1, 1, 9, 36);

sub read_exactly {
    my ($from, $wanted) = @_;
    my $got = '';
    while (length($got) < $wanted) {
        my $count = sysread($from, $got, $wanted - length($got), length($got));
        next if !defined($count) && $!{EINTR};
        exit 125 unless $count;
    }
    return $got;
}

# Everything that descends from this process, as long as it is its reaper: [pid, ...]
sub offspring {
    my %children;
    opendir(my $proc, '/proc') or return ();
    for my $pid (grep { /^\d+$/ } readdir($proc)) {
        open(my $file, '<', "/proc/$pid/stat") or next;
        my $line = <$file>;
        push @{ $children{$1} }, $pid if defined($line) && $line =~ /.*\)\s+\S\s+(\d+)/s;
    }
    my @found;
    my @waiting = ($$);
    while (defined(my $parent = pop @waiting)) {
        my @of = @{ $children{$parent} || [] };
        push @found, @of;
        push @waiting, @of;
    }
    return @found;
}

sub kill_all {
    if ($kind eq 'program') {
        kill($SIGKILL, -1);    # all but process 1 and this one: nothing of a session outlives its program
        return;
    }
    for (1 .. 100) {
        my @left = offspring();
        last unless @left;
        kill($SIGKILL, @left);
        1 while waitpid(-1, 1) > 0;
    }
}

socket(my $host, $AF_UNIX, $SOCK_STREAM, 0) or exit 125;
connect($host, pack('S a*', $AF_UNIX, "$socket\0")) or exit 125;
my @words = split(/\0/, read_exactly($host, unpack('N', read_exactly($host, 4))), -1);
my $variables = shift @words;
my @environment = splice(@words, 0, $variables);
my @command = @words;

syscall($prctl, $SUBREAPER, 1, 0, 0, 0) if $prctl;
pipe(my $ended, my $ending) or exit 125;
pipe(my $failed, my $failing) or exit 125;
$SIG{CHLD} = sub { syswrite($ending, '.') };
$SIG{PIPE} = 'IGNORE';

my $child = fork();
exit 125 unless defined $child;
if ($child == 0) {
    $SIG{$_} = 'DEFAULT' for qw(CHLD PIPE);
    setpgrp(0, 0);
    # When memory runs out the command goes, not what holds the container together.
    if (open(my $score, '>', '/proc/self/oom_score_adj')) { print $score '500'; close($score); }
    %ENV = map { my ($name, $value) = split(/=/, $_, 2); ($name, $value) } @environment;
    chdir('/workspace');
    { no warnings 'exec'; exec { $command[0] } @command; }
    syswrite($failing, "$!");
    exit 125;
}
setpgrp($child, $child);    # whoever of the two comes first
close($failing);
# The command's streams are the command's alone: their end is its end.
open(STDIN, '<', '/dev/null');
open(STDOUT, '>', '/dev/null');
open(STDERR, '>', '/dev/null');

my $failure = '';
sysread($failed, $failure, 200);
if (length $failure) {
    waitpid($child, 0);
    syswrite($host, "failed $failure\n");
    exit 125;
}
while (1) {
    my $watched = '';
    vec($watched, fileno($_), 1) = 1 for ($host, $ended);
    # Perl handles signals between its own steps: one that comes just before it waits wakes nobody. So it waits a second.
    next if select($watched, undef, undef, 1) < 0;
    sysread($ended, my $dots, 100) if vec($watched, fileno($ended), 1);
    while ((my $pid = waitpid(-1, 1)) > 0) {
        next unless $pid == $child;
        my $status = $?;
        kill_all() if $kind eq 'program';
        syswrite($host, "ended $status\n");
        exit 0;
    }
    if (vec($watched, fileno($host), 1)) {
        my $count = sysread($host, my $signals, 100);
        if (!$count) {
            next if !defined($count) && $!{EINTR};
            kill_all();
            exit 0;
        }
        kill(-$_, $child) for unpack('C*', $signals);
    }
}
